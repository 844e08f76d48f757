"""`memoserve serve`: a store over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memoserve.errors import BadInput
from memoserve.run.options import Options

_WHO = "Access control"
_RUNS = "Runs"
_LIMITS = "Limits"


def serve(
    directory: Annotated[
        str,
        typer.Argument(
            metavar="[DIR]", help="The store: a directory, or with --read-only a URL.", envvar="MEMOSERVE_OUT"
        ),
    ] = Options.out,
    host: Annotated[
        str, typer.Option("--host", help="The address to listen on.", rich_help_panel=_WHO)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="0: any free one.", rich_help_panel=_WHO)
    ] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            help="File with the token that requests must bring. Default: MEMOSERVE_TOKEN, if set.",
            rich_help_panel=_WHO,
            show_default=False,
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            help="A name under which the service is reached, such as a proxy's; may be repeated.",
            rich_help_panel=_WHO,
            show_default=False,
        ),
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Take no runs.", rich_help_panel=_RUNS)
    ] = False,
    suites: Annotated[
        Path | None,
        typer.Option(
            "--suites",
            help="Folder of suite files that runs may name beside the shipped ones.",
            rich_help_panel=_RUNS,
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Folder of training sequences that runs may name.",
            rich_help_panel=_RUNS,
            show_default=False,
        ),
    ] = None,
    readers: Annotated[
        int, typer.Option(min=1, help="Maximum concurrent queries.", rich_help_panel=_LIMITS)
    ] = 2,
    memory: Annotated[
        int, typer.Option(min=1, help="GiB of memory for each of them.", rich_help_panel=_LIMITS)
    ] = 2,
    seconds: Annotated[
        float, typer.Option(min=1, help="Seconds that an answer may take.", rich_help_panel=_LIMITS)
    ] = 30.0,
) -> None:
    """Serve a store over HTTP: submit runs and watch them, ask queries and SQL, read memorized text.

    Other machines reach it only with --host, and then a token is needed. The token is read from the
    environment or from a file, so that it doesn't stand in a list of processes.
    """
    try:
        from memoserve.serve.http.server import serve
        from memoserve.serve.settings import Settings, read_token
    except ImportError as error:
        raise BadInput(f"{error.name} is not installed: pip install 'memoserve[serve]'") from None
    from memoserve.store import Store

    settings = Settings(
        store=directory if "://" in directory else Path(directory),
        host=host,
        port=port,
        token=read_token(token_file),
        hosts=tuple(allow_host or ()),
        suites=suites,
        data=data,
        read_only=read_only,
        readers=readers,
        memory=memory << 30,
        seconds=seconds,
    )
    if read_only:
        Store.open(directory)
    else:
        Store.create(directory)
    serve(settings, typer.echo)
