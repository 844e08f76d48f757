"""What an engine finds on this machine, without importing any."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from dataclasses import dataclass

TORCH_OPTIONAL = ("torchvision", "torchaudio", "torchcodec")


@dataclass(frozen=True)
class Diagnosis:
    """Of an engine by name: its version, as scores name it; device: `cpu`, `cuda` or empty; problems: empty
    if usable, else why it is not and what to do, a line each; modules: what it imports at its start.
    """

    engine: str
    version: str
    device: str
    problems: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether the engine is available, as far as can be seen without starting it."""
        return not self.problems


def try_import(diagnosis: Diagnosis) -> str:
    """Import what an engine imports, in a fresh process: Python's error, or nothing if it worked."""
    if not diagnosis.modules:
        return ""
    result = subprocess.run(
        [sys.executable, "-c", f"import {', '.join(diagnosis.modules)}"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if result.returncode == 0 else (result.stderr.strip().splitlines() or ["it crashed"])[-1]


def gpus() -> list[str]:
    """Name and memory of each NVIDIA GPU, as nvidia-smi says them."""
    if shutil.which("nvidia-smi") is None:
        return []
    result = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout.strip().splitlines() if result.returncode == 0 else []


def version_of(distribution: str) -> str | None:
    """The version of an installed distribution, None if it isn't there."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def torch_missing() -> list[str]:
    """What to do where there is no torch; nothing where there is."""
    if version_of("torch") is not None:
        return []
    return ["torch is not installed: pip install 'memoserve[cpu]' (or [cuda] on a GPU machine)"]


def torch_companions() -> list[str]:
    """PyPI's torchvision beside a CPU torch breaks transformers, and vLLM with it."""
    torch = version_of("torch")
    if torch is None or not torch.endswith("+cpu"):
        return []
    return [
        f"{name} {version} is built for another torch than {torch} and breaks transformers:"
        f" pip uninstall -y {' '.join(TORCH_OPTIONAL)}"
        for name in TORCH_OPTIONAL
        if (version := version_of(name)) is not None and not version.endswith("+cpu")
    ]
