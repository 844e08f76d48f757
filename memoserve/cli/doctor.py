"""`memoserve doctor`: which engine this machine can run, and why not another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from memoserve.cli.completion import suites

if TYPE_CHECKING:
    from rich.console import Console


def doctor(
    quick: Annotated[
        bool, typer.Option("--quick", help="Look at what is installed, without importing the engines.")
    ] = False,
    suite: Annotated[
        str,
        typer.Option(
            "--suite",
            help="The suite whose largest model here the settings are shown for.",
            autocompletion=suites,
        ),
    ] = "mini",
    mode: Annotated[
        Literal["score", "extract"], typer.Option("--mode", help="The mode that the settings are shown for.")
    ] = "score",
) -> None:
    """Say which engine this machine can run, why others are unavailable, and how vLLM is set up.

    Exit code 5 if none can run here.
    """
    import platform

    import psutil
    from rich.console import Console

    from memoserve import __version__
    from memoserve.engines import diagnose, engine_names, gpus, try_import
    from memoserve.errors import EngineFailed

    console = Console(highlight=False, soft_wrap=True)
    memory = psutil.virtual_memory().total / 2**30
    console.print(
        f"memoserve {__version__}, Python {platform.python_version()}, {platform.system()}", markup=False
    )
    cores = len(psutil.Process().cpu_affinity())
    console.print(f"{platform.machine()}, {cores} cores, {memory:.0f} GiB memory", markup=False)
    for gpu in gpus():
        console.print(f"GPU: {gpu}", markup=False)
    usable = False
    for engine in engine_names():
        found = diagnose(engine)
        problems = list(found.problems)
        if found.usable and not quick:
            failure = try_import(found)
            if failure:
                problems.append(f"it is installed but does not import: {failure}")
        usable = usable or not problems
        mark = "no " if problems else "yes"
        words = [mark, engine, found.version, f"on {found.device}" if found.device else ""]
        console.print(" ".join(filter(None, words)), markup=False)
        for problem in problems:
            console.print(f"      {problem}", markup=False)
    if not usable:
        raise EngineFailed(
            "no engine can run here; stores can still be queried. On a CPU: pip install 'memoserve[cpu]';"
            " with an NVIDIA GPU: pip install 'memoserve[cuda]'"
        )
    vllm = diagnose("vllm")
    if vllm.usable:
        _print_settings(console, suite, mode, vllm.device)


def _print_settings(console: Console, suite: str, mode: Literal["score", "extract"], device: str) -> None:
    """How vLLM is set up for the largest model of a suite whose weights are in local folders."""
    import json

    from rich.table import Table

    from memoserve.engines import EngineSettings, fetch_weights, tune
    from memoserve.suites import load_suite, select

    loaded = load_suite(suite)
    local = [c for c in select(loaded, "final") if c.weights.folder is not None]
    if not local:
        console.print(f"settings for {suite} are known once its weights are in local folders", markup=False)
        return
    weights = fetch_weights(local[-1])
    dtype = "float32" if device == "cpu" else weights.dtype  # as memoserve run has it
    settings = EngineSettings(
        engine="vllm",
        mode=mode,
        context=32,
        dtype=dtype,
        banned_token_id=loaded.banned_token_id,
        device=device,
    )
    config = json.loads((weights.folder / "config.json").read_text(encoding="utf-8"))
    table = Table(title=f"vLLM for {local[-1]}, {mode} mode, {dtype}", title_justify="left", box=None)
    for column in ("setting", "value", "because"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for setting in tune(settings, config).settings:
        table.add_row(setting.name, setting.value, setting.reason)
    console.print(table)
