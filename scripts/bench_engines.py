#!/usr/bin/env python3
"""Engines against each other: the same windows and weights, warm, median of several rounds.

    python scripts/bench_engines.py --sizes 6m --dtypes float32,bfloat16 -o bench.json

Alternatives, each in a process of its own with all cores:

    a  Hugging Face generate, use_cache=False, as the paper's authors ran it
    b  Hugging Face generate with cache
    c  Hugging Face teacher-forced forward, logits of the continuation only
    d  plain vLLM LLM.generate
    e  memoserve score
    f  memoserve extract, with ladder; g without; h with --loglik

Weights are random, which is all the same for speed. How many windows survive how many tokens is not: the
continuations are made to match the model's own generation for as many tokens as windows of the mini suite
match its largest model, measured at the start. Each alternative gets so many windows that a round takes about
--seconds. Prints a table with ratios; -o writes JSON. On a GPU the same, with sizes such as 410m or 6.9b and
float16.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONTEXT, CONTINUATION = 32, 32
# name: hidden, layers, heads, vocabulary
SIZES = {
    "1m": (128, 5, 4, 1024),
    "6m": (256, 6, 8, 2048),
    "14m": (128, 6, 4, 50304),
    "70m": (512, 6, 8, 50304),
    "410m": (1024, 24, 16, 50304),
    "1.4b": (2048, 24, 16, 50304),
    "6.9b": (4096, 32, 32, 50432),
}
NAMES = {
    "a": "HF generate, no cache",
    "b": "HF generate, cache",
    "c": "HF forward",
    "d": "vLLM generate",
    "e": "memoserve score",
    "f": "memoserve extract",
    "g": "memoserve extract, no ladder",
    "h": "memoserve extract --loglik",
}
LEAST = 32
"""Windows of the shortest round."""


def make_model(size: str, folder: Path) -> None:
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    hidden, layers, heads, vocabulary = SIZES[size]
    torch.manual_seed(1)
    config = GPTNeoXConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * hidden, max_position_embeddings=128, rotary_pct=0.25,
        use_parallel_residual=True, bos_token_id=0, eos_token_id=0, initializer_range=0.1,
    )  # fmt: skip
    GPTNeoXForCausalLM(config).save_pretrained(folder)


def parameters_and_flops(size: str) -> tuple[int, float]:
    """All parameters, and FLOPs of one teacher-forced window: 63 tokens, 32 of them through the LM head."""
    hidden, layers, _, vocabulary = SIZES[size]
    body = 12 * layers * hidden**2
    tokens = CONTEXT + CONTINUATION - 1
    attention = 4 * layers * hidden * tokens * (tokens + 1) / 2
    return (
        body + 2 * vocabulary * hidden,
        2.0 * body * tokens + attention + 2.0 * hidden * vocabulary * CONTINUATION,
    )


def the_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


# ------------------------------------------------------------------------------------ one alternative


def hugging_face(which: str, folder: Path, dtype: str) -> Callable[[NDArray[np.uint32]], Any]:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    torch.set_num_threads(len(__import__("os").sched_getaffinity(0)))
    device = the_device()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device).eval()
    model.generation_config = GenerationConfig()
    model.config.eos_token_id = None
    greedy = GenerationConfig(
        do_sample=False, max_new_tokens=CONTINUATION, use_cache=which == "b", pad_token_id=0
    )
    batch = {"a": 64, "b": 256, "c": 64}[which] if device == "cpu" else 1024

    def run(windows: NDArray[np.uint32]) -> None:
        with torch.inference_mode():
            for start in range(0, len(windows), batch):
                tokens = torch.from_numpy(windows[start : start + batch].astype(np.int64)).to(device)
                if which == "c":
                    logits = model(tokens[:, :-1], logits_to_keep=CONTINUATION).logits
                    (logits.argmax(-1) == tokens[:, CONTEXT:]).all(1).cpu()
                else:
                    prompt = tokens[:, :CONTEXT]
                    ones = torch.ones_like(prompt)
                    model.generate(prompt, attention_mask=ones, generation_config=greedy).cpu()

    return run


def plain_vllm(folder: Path, dtype: str) -> Callable[[NDArray[np.uint32]], Any]:
    import os

    os.environ.update(
        VLLM_CPU_NUM_OF_RESERVED_CPU="0", VLLM_LOGGING_LEVEL="ERROR", VLLM_ENABLE_V1_MULTIPROCESSING="0"
    )
    from vllm import LLM, SamplingParams

    options: dict[str, Any] = {"max_num_seqs": 1024, "max_num_batched_tokens": 32768}
    if the_device() == "cpu":
        options = {"max_num_seqs": 256, "max_num_batched_tokens": 8192, "kv_cache_memory_bytes": 1 << 30}
        options["enforce_eager"] = True
    llm = LLM(
        model=str(folder), skip_tokenizer_init=True, dtype=dtype, max_model_len=64,
        enable_prefix_caching=False, disable_log_stats=True, **options,
    )  # fmt: skip
    greedy = SamplingParams(temperature=0, max_tokens=CONTINUATION, ignore_eos=True, detokenize=False)

    def run(windows: NDArray[np.uint32]) -> None:
        llm.generate(
            [{"prompt_token_ids": row} for row in windows[:, :CONTEXT].tolist()], greedy, use_tqdm=False
        )

    return run


def memoserve_engine(which: str, folder: Path, dtype: str, costs: dict[str, float]) -> Callable[..., Any]:
    from memoserve.engines import EngineProcess, EngineSettings

    log = folder / f"{which}.log"
    settings = EngineSettings(
        engine="vllm", mode="score" if which == "e" else "extract", context=CONTEXT, dtype=dtype,
        banned_token_id=None, device=the_device(), ladder=which in "ef", loglik=which == "h",
    )  # fmt: skip
    began = time.perf_counter()
    engine = EngineProcess(settings, folder, log)
    engine.wait_until_up()
    costs["cold start"] = time.perf_counter() - began
    began = time.perf_counter()
    engine.load(folder)
    costs["checkpoint switch"] = time.perf_counter() - began
    return engine.evaluate


def measure(
    which: str, folder: Path, dtype: str, windows: NDArray[np.uint32], rounds: int, seconds: float
) -> dict[str, Any]:
    costs: dict[str, float] = {}
    if which in "abc":
        run = hugging_face(which, folder, dtype)
    elif which == "d":
        run = plain_vllm(folder, dtype)
    else:
        run = memoserve_engine(which, folder, dtype, costs)
    run(windows[:LEAST])
    began = time.perf_counter()
    run(windows[:LEAST])
    rate = LEAST / (time.perf_counter() - began)
    part = windows[: max(LEAST, min(len(windows), int(rate * seconds)))]
    run(part)
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        run(part)
        taken.append(time.perf_counter() - began)
    rates = [len(part) / t for t in taken]
    return {
        "windows_per_second": len(part) / statistics.median(taken),
        "lowest": min(rates),
        "highest": max(rates),
        "windows": len(part),
        **costs,
    }


def ceiling(size: str, dtype: str) -> float:
    """FLOP/s of matrix products: the best of square ones and of this model's shape.

    On a CPU of 16-bit matrices also by float32 products: a processor without 16-bit ones has those.
    """
    import torch

    torch.set_num_threads(len(__import__("os").sched_getaffinity(0)))
    hidden, device = SIZES[size][0], the_device()
    shapes = [(2048, 2048, 2048), (1024, hidden, 4 * hidden), (4096, hidden, 4 * hidden)]
    best = 0.0
    with torch.inference_mode():
        for rows, inner, columns in shapes if device == "cpu" else [(8192, 8192, 8192), *shapes]:
            for precision in {dtype, "float32"} if device == "cpu" else {dtype}:
                wanted = getattr(torch, precision)
                a = torch.randn(rows, inner).to(device, wanted)
                b = torch.randn(inner, columns).to(device, wanted)
                repeated = 2.0 * rows * inner * columns * 10
                products = [lambda a=a, b=b: a @ b]
                if precision == "float32" and device == "cpu":
                    x, y = a.numpy(), b.numpy()
                    products.append(lambda x=x, y=y: x @ y)
                for product in products:
                    product()
                    for _ in range(3):
                        began = time.perf_counter()
                        for _ in range(10):
                            product()
                        if device == "cuda":
                            torch.cuda.synchronize()
                        best = max(best, repeated / (time.perf_counter() - began))
    return best


# ---------------------------------------------------------------------------------------- all of them


def survival_of_mini() -> NDArray[np.uint8]:
    """Matched prefixes of mini's distinct windows under its largest final model."""
    from memoserve.engines import EngineProcess, EngineSettings
    from memoserve.sequences import open_sequences
    from memoserve.suites import load_suite, select

    suite = load_suite("mini")
    source = open_sequences(str(suite.sequences.path))
    windows = np.unique(source.read(0, suite.sequences.trained, 64), axis=0)
    folder = select(suite, "1.2m@final")[0].weights.folder
    assert folder is not None
    with tempfile.TemporaryDirectory() as log:
        engine = EngineProcess(
            EngineSettings("vllm", "extract", CONTEXT, "float32", 0, the_device()), folder, Path(log) / "log"
        )
        try:
            return engine.evaluate(windows).matched_prefix
        finally:
            engine.close()


def make_windows(
    folder: Path, prefixes: NDArray[np.uint8], count: int, vocabulary: int
) -> NDArray[np.uint32]:
    """Random contexts, continuations that match the model for as long as `prefixes` say."""
    from memoserve.engines import EngineProcess, EngineSettings

    rng = np.random.default_rng(0)
    contexts = rng.integers(1, vocabulary, (count, CONTEXT), dtype=np.uint32)
    reference = EngineProcess(
        EngineSettings("transformers", "score", CONTEXT, "float32", None, the_device()),
        folder,
        folder / "log",
    )
    try:
        continuations = reference.generate(contexts)
    finally:
        reference.close()
    lengths = rng.choice(prefixes, count)
    rows = np.flatnonzero(lengths < CONTINUATION)
    continuations[rows, lengths[rows]] = (continuations[rows, lengths[rows]] + 1) % vocabulary
    return np.concatenate([contexts, continuations], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="1m,6m,14m")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--only", default="abcdefgh", help="letters of the alternatives")
    parser.add_argument("--windows", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a round, about")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        which, folder, dtype = arguments.worker
        if which == "ceiling":
            print(json.dumps(ceiling(Path(folder).name, dtype)))
        else:
            windows = np.load(Path(folder) / "windows.npy")
            print(
                json.dumps(measure(which, Path(folder), dtype, windows, arguments.rounds, arguments.seconds))
            )
        return

    def worker(which: str, folder: Path, dtype: str) -> Any:
        command = [sys.executable, __file__, "--worker", which, str(folder), dtype]
        command += ["--rounds", str(arguments.rounds), "--seconds", str(arguments.seconds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{which} {folder.name} {dtype}: {done.stderr[-2000:]}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    prefixes = survival_of_mini()
    results = []
    with tempfile.TemporaryDirectory() as place:
        for size in arguments.sizes.split(","):
            folder = Path(place) / size
            make_model(size, folder)
            np.save(folder / "windows.npy", make_windows(folder, prefixes, arguments.windows, SIZES[size][3]))
            parameters, flops = parameters_and_flops(size)
            for dtype in arguments.dtypes.split(","):
                top = worker("ceiling", folder, dtype)
                rates: dict[str, dict[str, Any]] = {}
                print(
                    f"\n{size}: {parameters:,} parameters, {dtype}, matrix products {top / 1e9:.0f} GFLOP/s"
                )
                print(f"{'':32} {'windows/s':>10} {'of ceiling':>10} {'x a':>7} {'x c':>7} {'x d':>7}")
                for which in arguments.only:
                    rates[which] = found = worker(which, folder, dtype)
                    rate = found["windows_per_second"]
                    ratios = [
                        f"{rate / rates[other]['windows_per_second']:7.2f}" if other in rates else " " * 7
                        for other in "acd"
                    ]
                    costs = "  ".join(
                        f"{k} {found[k]:.2f} s" for k in ("cold start", "checkpoint switch") if k in found
                    )
                    line = f"{which} {NAMES[which]:30} {rate:10.1f} {rate * flops / top:10.0%}"
                    print(f"{line} {' '.join(ratios)}  {costs}", flush=True)
                results.append(
                    {"size": size, "parameters": parameters, "dtype": dtype, "ceiling": top, "rates": rates}
                )
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
