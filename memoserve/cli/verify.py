"""`memoserve verify`: find what of a store is damaged, and take it out of the way."""

from __future__ import annotations

from typing import Annotated

import typer

from memoserve.cli.options import StoreArgument
from memoserve.errors import BadInput
from memoserve.run.options import Options
from memoserve.terminal import escape_for_terminal


def verify(
    directory: StoreArgument = Options.out,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Move damaged files into DIR/damaged; memoserve run makes them again."),
    ] = False,
) -> None:
    """Read a whole store and name every file that isn't as it was written, a line each.

    Exit code 3 says that there are some and that they are still there.
    """
    from rich.filesize import decimal

    from memoserve.files.opening import open_files
    from memoserve.store.verify import ASIDE
    from memoserve.store.verify import repair as move_away
    from memoserve.store.verify import verify as verified

    found = verified(directory)
    if found.damages and repair:
        files = open_files(directory)
        with files.held():
            found = verified(directory)  # as it is under the lock
            move_away(files, found.damages)
    for damage in found.damages:
        typer.echo(escape_for_terminal(f"{damage.name}: {damage.problem}"))
    made_by = {"features" if damage.name.startswith("features/") else "run" for damage in found.damages}
    maker = " and ".join(f"memoserve {command}" for command in sorted(made_by, reverse=True))
    makes = f"{maker} {'make' if len(made_by) > 1 else 'makes'}"
    looked = f"{found.files:,} files, {decimal(found.bytes)}"
    if not found.damages:
        typer.echo(f"{directory}: {looked}, all as they were written")
    elif repair:
        typer.echo(
            f"{looked}, {len(found.damages):,} damaged: moved into {files.location(ASIDE)}; {makes} "
            "them again"
        )
    else:
        raise BadInput(
            f"{len(found.damages):,} damaged files in {directory} ({looked} read): memoserve verify --repair "
            f"moves them away, {makes} them again"
        )
