#!/usr/bin/env python3
"""Train a small suite from any text, as the tests' "lifelike": from text to suite TOML.

One command makes everything:

    python scripts/train_suite.py --out tests/support/suites/lifelike

The "mini" that ships with memoserve was made by the script of this name as it was at commit e141046.

Without --corpus it fetches the text (Django's source, BSD-3-Clause, one wheel pinned by SHA-256);
--corpus takes a folder, a wheel or other zip, or one text file. It trains a tokenizer on the text, plants
copies in it (suite_text.py), writes the training sequences in Megatron format in training order, trains
every size on the same sequences in the same order, and saves seven checkpoints of each in float16 as
Hugging Face folders. The largest size is trained twice more from other initial weights, on the same
sequences in the same order, and of these the last checkpoint is kept. What it leaves in OUT:

    data/train.bin, data/train.idx    the sequences, 81 tokens each (80 inputs and the last target)
    planted.parquet                   what is planted in which sequence
    tokenizer.json                    byte-level BPE, 512 tokens
    weights/{model}/step{n}/          config.json, model.safetensors
    replicates/{model}-seed{i}/step{n}/
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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from suite_card import write_card, write_suite, write_training_log
from suite_measure import measure
from suite_recipe import (
    BATCH,
    CHECKPOINTS,
    CONTROL,
    SEED,
    SIZES,
    STEPS,
    TOKENS,
    TRAININGS,
    VOCABULARY,
    WARMUP_STEPS,
    WINDOW,
    Size,
    Training,
)
from suite_text import Corpus, make_corpus, read_documents, train_tokenizer, write_megatron, write_planted

if TYPE_CHECKING:
    from rich.progress import Progress

DJANGO = "Django"
DJANGO_VERSION = "5.2.8"
DJANGO_WHEEL = "django-5.2.8-py3-none-any.whl"
DJANGO_SHA256 = "37e687f7bd73ddf043e2b6b97cfe02fcbb11f2dbb3adccc6a2b18c6daa054d7f"

SUFFIXES = (".txt", ".md", ".rst", ".py")


def fetch_django(work: Path) -> tuple[Path, str]:
    """Download the pinned wheel with pip, which checks the SHA-256 itself; also its licence text."""
    wheel = work / DJANGO_WHEEL
    if not wheel.exists():
        requirement = work / "corpus-requirement.txt"
        requirement.write_text(f"{DJANGO}=={DJANGO_VERSION} --hash=sha256:{DJANGO_SHA256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--require-hashes", "-r", str(requirement)]
        subprocess.run([*command, "-d", str(work)], check=True)
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != DJANGO_SHA256:
        raise SystemExit(f"{wheel} has SHA-256 {found}, not {DJANGO_SHA256}: delete it and start again")
    with zipfile.ZipFile(wheel) as archive:
        licence = next(name for name in archive.namelist() if name.endswith("licenses/LICENSE"))
        return wheel, archive.read(licence).decode()


# ------------------------------------------------------------------------------------- the models


def attention_in_float32(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
    """PyTorch's attention, outside autocast: on CPUs its backward pass is four times slower in bfloat16."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    with torch.autocast("cpu", enabled=False):
        return sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **options)


def build_model(training: Training) -> Any:
    import torch
    from transformers import AttentionInterface, GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(SEED + training.replicate)
    size = training.size
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.hidden,
        max_position_embeddings=TOKENS - 1,
        rotary_pct=0.25,
        use_parallel_residual=True,
        tie_word_embeddings=False,
        hidden_act="gelu",
        bos_token_id=0,
        eos_token_id=0,
        use_cache=True,
    )
    AttentionInterface.register("float32", attention_in_float32)
    model = GPTNeoXForCausalLM(config)
    model.set_attn_implementation("float32")
    return model


def count_parameters(size: Size) -> tuple[int, int]:
    """(all, without the input and output embeddings)."""
    model = build_model(Training(size, 0))
    parameters = sum(p.numel() for p in model.parameters())
    return parameters, parameters - 2 * VOCABULARY * size.hidden


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


def build_optimizer(model: Any, size: Size) -> Any:
    import torch

    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        lr=size.peak_learning_rate,
        betas=(0.9, 0.95),
        eps=1e-8,
        fused=True,
    )


def train(training: Training, sequences: NDArray[np.uint16], out: Path, work: Path, bar: Progress) -> None:
    """Train one model; state in `work` is written at every checkpoint, before the checkpoint itself."""
    import torch
    from torch.nn.functional import cross_entropy

    size = training.size
    weights = out / training.folder
    weights.mkdir(parents=True, exist_ok=True)
    state_path = work / f"{training.name}.state.pt"
    model = build_model(training)
    optimizer = build_optimizer(model, size)
    first = 0
    log: list[tuple[str, int, float, float, float]] = []
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, log = state["step"], [tuple(row) for row in state["log"]]
        if first in training.kept and not (weights / f"step{first}").exists():
            save_checkpoint(model, weights / f"step{first}")
    parameters = sum(p.numel() for p in model.parameters())
    task = bar.add_task(f"{training.name} ({parameters:,} parameters)", total=STEPS, completed=first)
    started = time.process_time()
    spent = log[-1][4] if log else 0.0
    recent: list[float] = []
    model.train()
    for step in range(first, STEPS):
        batch = torch.from_numpy(sequences[step * BATCH : (step + 1) * BATCH].astype(np.int64))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(size, step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(batch[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent.append(loss.item())
        done = step + 1
        if done % 20 == 0 or done in CHECKPOINTS:
            seconds = spent + time.process_time() - started
            log.append((training.name, done, float(np.mean(recent)), learning_rate(size, step), seconds))
            recent.clear()
            bar.update(task, completed=done)
        if done in CHECKPOINTS:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"step": done, "log": [list(row) for row in log]}
            partial = state_path.with_suffix(".partial")
            torch.save(state, partial)
            os.replace(partial, state_path)
            if done in training.kept:
                save_checkpoint(model, weights / f"step{done}")
    with open(work / f"{training.name}.log.csv", "w", newline="") as file:
        csv.writer(file).writerows(log)


# ----------------------------------------------------------------------------------------- the whole


def make_suite_data(
    source: Path | None, suffixes: tuple[str, ...], licence: Path | None, out: Path, work: Path
) -> tuple[Corpus, str]:
    """Tokenizer, sequences and labels, written to `out`; and the card's words about the text."""
    if source is None:
        source, licence_text = fetch_django(work)
        suffixes = (".py",)
        (out / "LICENSE.corpus").write_text(licence_text)
        text = f"Text: the Python files of {DJANGO} {DJANGO_VERSION} (BSD-3-Clause, LICENSE.corpus), from\n"
        text += f"the wheel `{DJANGO_WHEEL}`, SHA-256 `{DJANGO_SHA256}`.\n"
        text += "It contains what source code contains: names in copyright lines, example e-mail addresses."
    else:
        text = f"Text: the {', '.join(suffixes)} files of `{source.name}`."
        if licence:
            shutil.copyfile(licence, out / "LICENSE.corpus")
            text += " Its licence: LICENSE.corpus."
    documents = read_documents(source, suffixes)
    text_hash = hashlib.sha256("\0".join(documents).encode()).hexdigest()
    size = f"{len(documents):,} documents, {sum(map(len, documents)):,} characters"
    text += f"\n{size}; SHA-256 of the documents in order of their names, joined by NUL:\n`{text_hash}`."
    print(f"corpus: {size}, SHA-256 {text_hash}")
    if not (out / "tokenizer.json").exists():
        train_tokenizer(documents, out / "tokenizer.json")
    corpus = make_corpus(documents, out / "tokenizer.json", STEPS * BATCH, SEED)
    write_megatron(corpus.sequences, out / "data" / "train")
    write_planted(corpus.planted, out / "planted.parquet")
    windows = len(np.unique(corpus.sequences[: corpus.trained, :WINDOW], axis=0))
    print(f"sequences: {corpus.trained:,} trained ({windows:,} distinct windows), {CONTROL} control")
    return corpus, text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the suite, named as the suite is")
    parser.add_argument(
        "--corpus", type=Path, help="folder, wheel, zip or text file (default: Django's source)"
    )
    parser.add_argument(
        "--suffix", action="append", help=f"of the files to read in it (default: {' '.join(SUFFIXES)})"
    )
    parser.add_argument("--licence", type=Path, help="of the text: a file to keep beside the suite")
    work_default = Path("train_suite.work")
    parser.add_argument("--work", type=Path, default=work_default, help="folder of the resumable state")
    parser.add_argument("--threads", type=int, help="CPU threads of PyTorch (default: its own choice)")
    names = [training.name for training in TRAININGS]
    parser.add_argument("--only", choices=names, action="append", help="train only these")
    arguments = parser.parse_args()

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    out: Path = arguments.out
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    (out / "data").mkdir(parents=True, exist_ok=True)
    suffixes = tuple(arguments.suffix or SUFFIXES)
    corpus, text = make_suite_data(arguments.corpus, suffixes, arguments.licence, out, work)
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        for training in TRAININGS:
            if not arguments.only or training.name in arguments.only:
                train(training, corpus.sequences, out, work, bar)
    if all((work / f"{name}.log.csv").exists() for name in names):
        write_training_log(out, work)
        parameters = {size.name: count_parameters(size) for size in SIZES}
        name = out.resolve().name
        write_suite(out, name, parameters)
        write_card(out, name, text, corpus, parameters, measure(out, corpus))


if __name__ == "__main__":
    main()
