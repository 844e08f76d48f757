"""What describes a trained suite: its TOML, its training log, and its model card."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
from suite_recipe import (
    BATCH,
    CHECKPOINTS,
    CONTROL,
    CONTROL_RUN,
    COPIES_EXPONENT,
    KINDS,
    MOST_COPIES,
    REPLICATES,
    SEED,
    SIZES,
    STEPS,
    TOKENS,
    TRAININGS,
    VOCABULARY,
    WARMUP_STEPS,
    WINDOW,
)
from suite_text import Corpus


def write_training_log(out: Path, work: Path) -> None:
    """Losses, and the seconds of CPU time spent."""
    with open(out / "training_log.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "step", "loss", "learning_rate", "seconds"])
        for training in TRAININGS:
            with open(work / f"{training.name}.log.csv", newline="") as rows:
                for model, step, loss, rate, seconds in csv.reader(rows):
                    row = [f"{float(loss):.4f}", f"{float(rate):.3e}", f"{float(seconds):.1f}"]
                    writer.writerow([model, step, *row])


def write_suite(out: Path, name: str, parameters: dict[str, tuple[int, int]]) -> None:
    """`parameters` has of each model all, and those without the input and output embeddings."""
    lines = [
        "# A small Pythia. Written by memoserve's scripts/train_suite.py; see README.md here.",
        f'name = "{name}"',
        f'description = "{len(SIZES)} GPT-NeoX models on {STEPS * BATCH:,} sequences with planted copies"',
        f"batch_size = {BATCH}",
        f"sequence_length = {TOKENS - 1}",
        'eos = "ban"',
        "eos_token_id = 0",
        f"steps = {list(CHECKPOINTS)}",
        "",
        "[sequences]",
        'path = "data/train.idx"',
        'tokenizer = "tokenizer.json"',
        f"trained = {STEPS * BATCH}",
        f"control = [{STEPS * BATCH}, {STEPS * BATCH + CONTROL}]",
    ]
    for size in SIZES:
        every, without = parameters[size.name]
        lines += [
            "",
            "[[models]]",
            f'name = "{size.name}"',
            f'folder = "weights/{size.name}/step{{step}}"',
            f"parameters = {every}",
            f"parameters_without_embeddings = {without}",
        ]
    (out / "suite.toml").write_text("\n".join(lines) + "\n")


def planted_rows(corpus: Corpus) -> str:
    """The card's table of what is planted, counted from the labels themselves."""
    planted = corpus.planted
    rows = []
    for kind in KINDS:
        of_kind = planted["kind"] == kind
        copies = planted["copies"][of_kind]
        rows.append(
            f"| {kind} | {len(np.unique(planted['passage'][of_kind])):,} | {copies.min()} to {copies.max()} "
            f"| {len(np.unique(planted['sequence_id'][of_kind])):,} "
            f"| {planted['tokens'][of_kind].sum() / (corpus.trained * TOKENS):.1%} |"
        )
    return "\n".join(rows)


def write_card(
    out: Path,
    name: str,
    text: str,
    corpus: Corpus,
    parameters: dict[str, tuple[int, int]],
    measured: tuple[str, str],
) -> None:
    """The model card; its numbers are counted, not typed. `measured` is of suite_measure.measure."""
    _, copies = np.unique(corpus.sequences[: corpus.trained, :WINDOW], axis=0, return_counts=True)
    rows = [
        f"| {size.name} | {parameters[size.name][0]:,} | {parameters[size.name][1]:,} | {size.layers} "
        f"| {size.hidden} | {size.heads} | {size.peak_learning_rate:g} |"
        for size in SIZES
    ]
    fill = {
        "name": name,
        "text": text,
        "models": len(SIZES),
        "checkpoints": len(CHECKPOINTS),
        "checkpoint_list": ", ".join(map(str, CHECKPOINTS)),
        "model_rows": "\n".join(rows),
        "memorized_rows": measured[0],
        "agreement": measured[1],
        "largest": SIZES[-1].name,
        "replicates": REPLICATES,
        "warmup": WARMUP_STEPS,
        "steps": f"{STEPS:,}",
        "batch": BATCH,
        "tokens": TOKENS,
        "inputs": TOKENS - 1,
        "vocabulary": VOCABULARY,
        "window": WINDOW,
        "data_hash": hashlib.sha256((out / "data" / "train.bin").read_bytes()).hexdigest(),
        "trained": f"{corpus.trained:,}",
        "windows": f"{len(copies):,}",
        "once": f"{int((copies == 1).sum()):,}",
        "twice": f"{int((copies == 2).sum()):,}",
        "more": f"{int((copies > 2).sum()):,}",
        "most": int(copies.max()),
        "planted_rows": planted_rows(corpus),
        "most_copies": MOST_COPIES,
        "exponent": COPIES_EXPONENT,
        "seed": SEED,
        "control": CONTROL,
        "first_control": corpus.trained,
        "last_control": corpus.trained + CONTROL - 1,
        "run": CONTROL_RUN,
    }
    (out / "README.md").write_text(CARD.format(**fill))


CARD = """# {name}: a small suite with planted copies

{models} small GPT-NeoX models trained for one purpose: to be a Pythia small enough for a laptop, in which
memorization emerges as it does in life. They are good for nothing else. Made by scripts/train_suite.py.

## Models

Pythia's architecture options (rotary embeddings on a quarter of each head, parallel residual, untied
embeddings), {checkpoints} checkpoints each, at steps {checkpoint_list}: the paper's
seven, at 7/1000 of Pythia's length. Every size read the same sequences in the same order. Weights are
float16; training was bfloat16 autocast over float32 on a CPU.

| model | parameters | without embeddings | layers | width | heads | peak learning rate |
|---|---|---|---|---|---|---|
{model_rows}

AdamW (0.9, 0.95), weight decay 0.1, gradient clipping 1, {warmup} steps of warm-up, cosine to a tenth;
{steps} steps of {batch} sequences of {inputs} tokens. Losses and seconds of CPU time: training_log.csv.

`replicates/` has {largest} trained {replicates} times more, from other initial weights, on the same sequences
in the same order: the last checkpoints. What they agree on is how much of memorization is not chance.

## What they memorize

Of the {windows} distinct windows, by the last checkpoints (one teacher-forced pass in float32, end of text
banned; the engines' own runs differ where two tokens are about equally likely):

| model | windows | of these, seen once | once or twice | share of sequences | control windows of {control} |
|---|---|---|---|---|---|
{memorized_rows}

Windows: {agreement}.

## Data

{text}

Tokenizer: byte-level BPE of {vocabulary} tokens trained on that text; token 0 is end of text.

`data/train.bin` (SHA-256 `{data_hash}`)
and `train.idx` are a Megatron indexed dataset in training order, one document a sequence, {tokens} u16 tokens
each: documents were shuffled, joined by end of text, planted with copies, cut into sequences and shuffled
(seed {seed}). {trained} sequences have {windows} distinct windows of {window} tokens: {once} occur once,
{twice} twice, {more} more often (up to {most} times).

What is planted stands in `planted.parquet`, one row for each piece of each sequence: `sequence_id`, `kind`,
`passage`, `copies` (of that passage in the training data), `first_token` and `tokens` (where in it).

| kind | passages | copies of a passage | sequences it is in | share of all tokens |
|---|---|---|---|---|
{planted_rows}

exact, edited and template: passages of the text, inserted after random line ends of other documents, so
that their copies lie at any offset of a sequence. The passage of rank r has {most_copies} / r^{exponent}
copies, at least two. A copy of an edited passage has one to three tokens replaced, a copy of a template
four, at places that all its copies share. repeating: a phrase of three to ten tokens, over and over;
counting: numbered lines; no two of these are alike. sequence: whole sequences trained on again, at the same
offset. The natural duplication (licence lines, boilerplate, near-equal files) is in the text itself.

The last {control} sequences, ids {first_control} to {last_control}, are the control: no model
saw them, and none shares a run of {run} tokens with what was trained on.
"""
