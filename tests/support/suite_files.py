"""Suites for tests, written from mini."""

from __future__ import annotations

import shutil
from pathlib import Path

from memoserve.suites import Suite


def suite_of(mini: Suite, folder: Path, *models: str, steps: tuple[int, ...] = (581, 1001)) -> Path:
    """A suite file over copies of mini's models."""
    by_name = {model.name: model for model in mini.models}
    lines = [
        'name = "copies"',
        "batch_size = 32",
        "sequence_length = 96",
        'eos = "ban"',
        "eos_token_id = 0",
        f"steps = {list(steps)}",
        "[sequences]",
        f'path = "{mini.sequences.path}"',
        "trained = 32032",
        "control = [32032, 32532]",
    ]
    for name in models:
        for step in steps:
            shutil.copytree(
                mini.file.parent / "weights" / name / f"step{step}", folder / "w" / name / f"step{step}"
            )
        lines += [
            "[[models]]",
            f'name = "{name}"',
            f'folder = "w/{name}/step{{step}}"',
            f"parameters = {by_name[name].parameters}",
            f"parameters_without_embeddings = {by_name[name].parameters_without_embeddings}",
        ]
    (folder / "suite.toml").write_text("\n".join(lines) + "\n")
    return folder / "suite.toml"
