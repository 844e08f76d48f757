"""`memoserve doctor`: which engine this machine can run, and why not another."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(
    quick: Annotated[
        bool, typer.Option("--quick", help="Look at what is installed, without importing the engines.")
    ] = False,
) -> None:
    """Say which engine this machine can run, and what stands in the way of the others.

    Exit code 5 if none can run here.
    """
    import platform

    import psutil
    from rich.console import Console

    from memoserve import __version__
    from memoserve.engines import diagnose, gpus, try_import
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
    for engine in ("vllm", "transformers"):
        found = diagnose(engine)
        problems = list(found.problems)
        if found.usable and not quick:
            said = try_import(engine)
            if said:
                problems.append(f"it is installed but does not import: {said}")
        usable = usable or not problems
        mark = "no " if problems else "yes"
        console.print(f"{mark} {engine} {found.version} on {found.device}", markup=False)
        for problem in problems:
            console.print(f"      {problem}", markup=False)
    if not usable:
        raise EngineFailed(
            "no engine can run here; stores can still be queried. On a CPU: pip install 'memoserve[cpu]';"
            " with an NVIDIA GPU: pip install 'memoserve[cuda]'"
        )
