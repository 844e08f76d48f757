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
    i  plain vLLM, the true continuation as draft for its speculative decoding (not by default)
    j  plain vLLM, compiled (not by default)

Weights are random, which is all the same for speed. How many windows survive how many tokens is not: the
continuations are made to match the model's own generation for as many tokens as windows of the mini suite
match its largest model, measured at the start. Each alternative gets so many windows that a round takes about
--seconds. Prints a table with ratios; -o writes JSON, and adds to what an earlier call on the same machine
wrote there, so that a long comparison can be made in pieces. On a GPU the same, with sizes such as 410m or
6.9b and float16.

The share of the ceiling counts the arithmetic of one teacher-forced pass over a window, whatever an
alternative does; of g and h, which leave out what nothing reads of their last layer, only what they do.
"""

from __future__ import annotations

import argparse
import json
import os
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
    "i": "vLLM generate, drafts",
    "j": "vLLM generate, compiled",
}
LEAST = 16
"""Windows of the shortest round."""

WINDOWS = "MEMOSERVE_BENCH_WINDOWS"
"""The environment variable that tells `TrueContinuations` its file."""


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


def parameters(size: str) -> int:
    """All of them, embeddings included."""
    hidden, layers, _, vocabulary = SIZES[size]
    return 12 * layers * hidden**2 + 2 * vocabulary * hidden


def flops(which: str, size: str) -> float:
    """Of one teacher-forced window: 63 tokens, 32 of them through the LM head (g, h: and the last layer)."""
    hidden, layers, _, vocabulary = SIZES[size]
    tokens = CONTEXT + CONTINUATION - 1
    body = 12 * layers * hidden**2 * tokens
    attention = 4 * layers * hidden * tokens * (tokens + 1) / 2
    if which in "gh":
        context = CONTEXT - 1
        body -= 9 * hidden**2 * context  # all but queries, keys and values
        attention -= 4 * hidden * context * (context + 1) / 2
    return 2.0 * body + attention + 2.0 * hidden * vocabulary * CONTINUATION


def the_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


# ------------------------------------------------------------------------------------ one alternative


def hugging_face(which: str, folder: Path, dtype: str) -> Callable[[NDArray[np.uint32]], Any]:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    torch.set_num_threads(len(os.sched_getaffinity(0)))
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


class TrueContinuations:
    """A proposer for vLLM's speculative decoding: the rest of the window, as long as it was generated."""

    def __init__(self, _: Any) -> None:
        windows = np.load(os.environ[WINDOWS]).astype(np.int32)
        self._rest = {row[:CONTEXT].tobytes(): row[CONTEXT:] for row in windows}

    def propose(
        self, sampled: list[list[int]], lengths: NDArray[np.int32], tokens: NDArray[np.int32], **_: Any
    ) -> list[list[int]]:
        """Drafts for each request in flight, of whose i32[requests, positions] tokens `lengths` are known."""
        drafts = []
        for row, length in enumerate(lengths[: len(sampled)]):
            truth = self._rest.get(tokens[row, :CONTEXT].astype(np.int32).tobytes())
            made = int(length) - CONTEXT
            same = truth is not None and sampled[row] and (tokens[row, CONTEXT:length] == truth[:made]).all()
            drafts.append(truth[made:].tolist() if same else [])
        return drafts

    def load_model(self, *_: Any, **__: Any) -> None:
        """There is none."""


def plain_vllm(which: str, folder: Path, dtype: str) -> Callable[[NDArray[np.uint32]], Any]:
    os.environ.update(
        VLLM_CPU_NUM_OF_RESERVED_CPU="0", VLLM_LOGGING_LEVEL="ERROR", VLLM_ENABLE_V1_MULTIPROCESSING="0"
    )
    from vllm import LLM, SamplingParams

    options: dict[str, Any] = {"max_num_seqs": 1024, "max_num_batched_tokens": 32768}
    if the_device() == "cpu":
        options = {"max_num_seqs": 256, "max_num_batched_tokens": 8192, "kv_cache_memory_bytes": 1 << 30}
        options["enforce_eager"] = which != "j"
    if which == "i":
        os.environ[WINDOWS] = str(folder / "windows.npy")
        options["speculative_config"] = {
            "method": "custom_class",
            "model": f"{Path(__file__).stem}.TrueContinuations",
            "num_speculative_tokens": CONTINUATION - 1,
        }
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
    elif which in "dij":
        run = plain_vllm(which, folder, dtype)
    else:
        run = memoserve_engine(which, folder, dtype, costs)
    for _ in range(2):
        began = time.perf_counter()
        run(windows[:LEAST])
        warm = time.perf_counter() - began
        if warm > seconds:
            break
    rate = LEAST / warm
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


def ceiling(size: str, dtype: str) -> dict[str, float]:
    """FLOP/s of matrix products by dtype: the best of square ones and of this model's shape.

    On a CPU of 16-bit matrices also of float32: a processor without 16-bit products has those.
    """
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    hidden, device = SIZES[size][0], the_device()
    shapes = [(2048, 2048, 2048), (1024, hidden, 4 * hidden), (4096, hidden, 4 * hidden)]
    best: dict[str, float] = {}
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
                        rate = repeated / (time.perf_counter() - began)
                        best[precision] = max(best.get(precision, 0.0), rate)
    return best


def processor() -> str:
    """What was measured on: results of unlike ones don't belong into one table."""
    import torch

    if the_device() == "cuda":
        return torch.cuda.get_device_name()
    return f"{len(os.sched_getaffinity(0))} cores, {torch.backends.cpu.get_cpu_capability()}"


# ---------------------------------------------------------------------------------------- all of them


def survival_of_mini() -> list[int]:
    """How many of mini's distinct windows its largest final model matches for 0 to 32 tokens."""
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
            prefixes = engine.evaluate(windows).matched_prefix
            counts: list[int] = np.bincount(prefixes, minlength=CONTINUATION + 1).tolist()
            return counts
        finally:
            engine.close()


def make_windows(folder: Path, matching: list[int], count: int, vocabulary: int) -> NDArray[np.uint32]:
    """Random contexts; continuations match the model for 0 to 32 tokens as often as `matching` says."""
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
    lengths = rng.choice(CONTINUATION + 1, count, p=np.array(matching) / sum(matching))
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
            print(json.dumps([processor(), ceiling(Path(folder).name, dtype)]))
        else:
            sys.path.insert(0, str(Path(__file__).parent))  # where vLLM finds TrueContinuations
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

    output: Path | None = arguments.output
    results: dict[str, Any] = json.loads(output.read_text()) if output and output.exists() else {}
    matching = results.get("windows of mini by matched tokens") or survival_of_mini()
    results["windows of mini by matched tokens"] = matching
    with tempfile.TemporaryDirectory() as place:
        for size in arguments.sizes.split(","):
            folder = Path(place) / size
            make_model(size, folder)
            np.save(folder / "windows.npy", make_windows(folder, matching, arguments.windows, SIZES[size][3]))
            for dtype in arguments.dtypes.split(","):
                machine, products = worker("ceiling", folder, dtype)
                if results.setdefault("processor", machine) != machine:
                    raise SystemExit(f"{output} was measured on {results['processor']}, this is {machine}")
                key = f"{size} {dtype}"
                of_key = results.setdefault(
                    key, {"parameters": parameters(size), "products": {}, "rates": {}}
                )
                tops, rates = of_key["products"], of_key["rates"]
                for precision, top in products.items():
                    tops[precision] = max(top, tops.get(precision, 0.0))
                for which in arguments.only:
                    rates[which] = worker(which, folder, dtype)
                    print(f"{which} {rates[which]['windows_per_second']:.1f} windows/s", flush=True)
                print_table(key, of_key, machine)
                if output:
                    output.write_text(json.dumps(results, indent=2) + "\n")


def print_table(key: str, found: dict[str, Any], machine: str) -> None:
    """One size and dtype: windows a second, shares of the ceiling and ratios."""
    size, dtype = key.split()
    rates, products = found["rates"], found["products"]
    counted = max(products, key=products.__getitem__)
    print(f"\n{size}: {found['parameters']:,} parameters, {dtype}, {machine}")
    print("matrix products, GFLOP/s: " + ", ".join(f"{k} {v / 1e9:.0f}" for k, v in products.items()))
    if counted != dtype:
        print(f"the ceiling is that of {counted}: what this processor multiplies {dtype} by at its fastest")
    print(f"{'':32} {'windows/s':>10} {'of ceiling':>10} {'x a':>7} {'x c':>7} {'x d':>7}")
    for which in sorted(rates):
        rate = rates[which]["windows_per_second"]
        ratios = [
            f"{rate / rates[other]['windows_per_second']:7.2f}" if other in rates else " " * 7
            for other in "acd"
        ]
        costs = "  ".join(
            f"{k} {rates[which][k]:.2f} s" for k in ("cold start", "checkpoint switch") if k in rates[which]
        )
        share = rate * flops(which, size) / products[counted]
        print(f"{which} {NAMES[which]:30} {rate:10.1f} {share:10.0%} {' '.join(ratios)}  {costs}", flush=True)


if __name__ == "__main__":
    main()
