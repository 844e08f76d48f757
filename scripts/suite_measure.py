"""What the trained models of a suite memorize, for its card: a forward pass a window, no decoding.

A model continues a window's context greedily with the true continuation exactly if, at every token of the
continuation, the true token is the likeliest after the true tokens before it. So one pass over the window
says it. End of text is banned, as in the suite's own runs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from suite_recipe import CONTEXT, SIZES, TRAININGS, WINDOW
from suite_text import Corpus

WINDOWS_AT_ONCE = 256


def memorized(folder: Path, windows: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """bool[n] of windows u16[n, 64], by the checkpoint in `folder`, computed in float32."""
    import torch
    from transformers import GPTNeoXForCausalLM

    model = GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    head = model.get_output_embeddings()
    found = []
    with torch.no_grad():
        for start in range(0, len(windows), WINDOWS_AT_ONCE):
            tokens = torch.from_numpy(windows[start : start + WINDOWS_AT_ONCE].astype(np.int64))
            states = model.gpt_neox(tokens[:, :-1], use_cache=False).last_hidden_state
            scores = head(states[:, CONTEXT - 1 :])
            scores[..., 0] = -torch.inf
            found.append((scores.argmax(-1) == tokens[:, CONTEXT:]).all(dim=1).numpy())
    return np.concatenate(found)


def measure(out: Path, corpus: Corpus) -> tuple[str, str]:
    """The card's rows of each model's last checkpoint, and its words on the agreement of the replicates."""
    windows, copies = np.unique(corpus.sequences[: corpus.trained, :WINDOW], axis=0, return_counts=True)
    control = corpus.sequences[corpus.trained :, :WINDOW]
    rows, by_name = [], {}
    for training in TRAININGS:
        folder = out / training.folder / f"step{training.kept[-1]}"
        of_model = by_name[training.name] = memorized(folder, windows)
        rare = of_model & (copies <= 2)
        rows.append(
            f"| {training.name} | {of_model.sum():,} | {(of_model & (copies == 1)).sum():,} | {rare.sum():,} "
            f"| {copies[of_model].sum() / copies.sum():.2%} | {memorized(folder, control).sum()} |"
        )
    target = SIZES[-1].name
    words = []
    for training in TRAININGS:
        if training.replicate:
            both = (by_name[target] & by_name[training.name]).sum()
            either = (by_name[target] | by_name[training.name]).sum()
            words.append(
                f"{target} and {training.name} share {both:,} of the {either:,} that either memorized"
            )
    return "\n".join(rows), ";\n".join(words)
