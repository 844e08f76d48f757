#!/usr/bin/env python3
"""Engines against each other: the same windows and weights, warm, median of several rounds.

    python scripts/bench_engines.py --sizes 6m --dtypes float32,bfloat16 -o bench.json

Alternatives, each with all cores; they are up at the same time and take turns, so that what slows a machine
for a while slows them all, and a ratio is the median of those of the rounds:

    a  Hugging Face generate, use_cache=False, as the paper's authors ran it
    b  Hugging Face generate with cache
    c  Hugging Face teacher-forced forward, logits of the continuation only
    d  plain vLLM LLM.generate
    e  memoserve score
    f  memoserve extract, with ladder; g without; h with --loglik
    i  plain vLLM, the true continuation as draft for its speculative decoding (not by default)
    j  plain vLLM, compiled (not by default)

Weights are random, which is all the same for speed. How many windows match how many tokens is not: the
continuations are made to match the model's own generation for as many tokens as windows of the mini suite
match its largest model, measured at the start. Each alternative gets so many windows that a round takes about
--seconds. Prints a table with ratios; -o writes JSON, and adds other sizes and dtypes to what an earlier call
on such a processor wrote there. On a GPU the same, with sizes such as 410m or 6.9b and float16.

The share of the ceiling counts the arithmetic of one teacher-forced pass over a window, whatever an
alternative does; of g and h, which leave out what nothing reads of their last layer, only what they do.
"""

from __future__ import annotations

import argparse
import json
import operator
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
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

ANSWER = "answer: "
"""What a line of a worker's output begins with that is not an engine's chatter."""


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
        drafts: list[list[int]] = []
        for row, length in enumerate(lengths[: len(sampled)]):
            truth = self._rest.get(tokens[row, :CONTEXT].astype(np.int32).tobytes())
            made = int(length) - CONTEXT
            if truth is None or not sampled[row] or (tokens[row, CONTEXT:length] != truth[:made]).any():
                drafts.append([])
            else:
                drafts.append(truth[made:].tolist())
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


WORKERS = {"hf": "abc", "vllm": "d", "drafts": "i", "compiled": "j", "memoserve": "efgh", "ceiling": "="}
"""Alternatives by the process that has them; `=` is the ceiling of matrix products."""


def work(letters: str, folder: Path, dtype: str, seconds: float) -> None:
    """A process's side: get alternatives up and warm, say so, then take turns as told on standard input."""
    windows = np.load(folder / "windows.npy")
    turns: dict[str, Callable[[], Any]] = {}
    found: dict[str, Any] = {}
    for which in letters:
        if which == "=":
            turns[which] = partial(ceiling, folder.name, dtype)
            found[which] = processor()
            continue
        costs: dict[str, float] = {}
        if which in "abc":
            run = hugging_face(which, folder, dtype)
        elif which in "dij":
            run = plain_vllm(which, folder, dtype)
        else:
            run = memoserve_engine(which, folder, dtype, costs)
        part = windows[:LEAST]
        for _ in range(3):  # the first may still compile or allocate, and small batches are slow ones
            wanted = int(min(rate(run, part) * seconds, len(part) * 8))
            grown = windows[: max(LEAST, wanted)]
            if len(grown) <= len(part):
                break
            part = grown
        turns[which] = partial(rate, run, part)
        found[which] = {"windows": len(part), **costs}
    print(ANSWER + json.dumps(found), flush=True)
    for line in sys.stdin:
        print(ANSWER + json.dumps(turns[line.strip()]()), flush=True)


def rate(run: Callable[[NDArray[np.uint32]], Any], windows: NDArray[np.uint32]) -> float:
    """Windows a second."""
    began = time.perf_counter()
    run(windows)
    return len(windows) / (time.perf_counter() - began)


class Worker:
    """The driver's side."""

    def __init__(self, letters: str, folder: Path, dtype: str, seconds: float) -> None:
        self._errors = folder / f"{letters}-{dtype}.log"
        command = [
            sys.executable,
            __file__,
            "--worker",
            letters,
            str(folder),
            dtype,
            "--seconds",
            str(seconds),
        ]
        with open(self._errors, "wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self.found: dict[str, Any] = self._answer()

    def turn(self, which: str) -> Any:
        """Windows a second of one alternative's turn; of `=`, FLOP/s by dtype."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{which}\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """Let the process end."""
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                return json.loads(line.removeprefix(ANSWER))
        raise SystemExit(self._errors.read_text(errors="replace")[-2000:])


def compare(letters: str, folder: Path, dtype: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Let alternatives take turns."""
    workers = {
        chosen: Worker(chosen, folder, dtype, seconds)
        for group in WORKERS.values()
        if (chosen := "".join(sorted(set(group) & set(letters + "="))))
    }
    (ceilings,) = (worker for chosen, worker in workers.items() if chosen == "=")
    products: dict[str, float] = {}
    rates: dict[str, dict[str, Any]] = {
        which: {**worker.found[which], "windows_per_second": []}
        for chosen, worker in workers.items()
        for which in chosen
        if which != "="
    }
    for _ in range(rounds):
        for precision, top in ceilings.turn("=").items():
            products[precision] = max(top, products.get(precision, 0.0))
        for chosen, worker in workers.items():
            for which in chosen.replace("=", ""):
                rates[which]["windows_per_second"].append(worker.turn(which))
    for worker in workers.values():
        worker.end()
    return {"processor": ceilings.found["="], "products": products, "rates": rates}


def ceiling(size: str, dtype: str) -> dict[str, float]:
    """FLOP/s of matrix products by dtype: the best of square ones and of this model's shape.

    On a CPU of 16-bit matrices also of float32: a processor without 16-bit products has those.
    """
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    hidden, device = SIZES[size][0], the_device()
    shapes = [(1024, 1024, 1024), (1024, hidden, 4 * hidden), (4096, hidden, 4 * hidden)]
    best: dict[str, float] = {}
    with torch.inference_mode():
        for rows, inner, columns in shapes if device == "cpu" else [(8192, 8192, 8192), *shapes]:
            for precision in {dtype, "float32"} if device == "cpu" else {dtype}:
                wanted = getattr(torch, precision)
                a = torch.randn(rows, inner).to(device, wanted)
                b = torch.randn(inner, columns).to(device, wanted)
                once = 2.0 * rows * inner * columns
                products: list[Callable[[], object]] = [partial(operator.matmul, a, b)]
                if precision == "float32" and device == "cpu":
                    x, y = a.numpy(), b.numpy()
                    products.append(partial(operator.matmul, x, y))
                for product in products:
                    product()
                    repeated = 1
                    for _ in range(4):
                        began = time.perf_counter()
                        for _ in range(repeated):
                            product()
                        if device == "cuda":
                            torch.cuda.synchronize()
                        seconds = time.perf_counter() - began
                        best[precision] = max(best.get(precision, 0.0), repeated * once / seconds)
                        if seconds > 0.5:  # 16 bit on a processor that has no products of it
                            break
                        repeated = 10
    return best


def processor() -> str:
    """What was measured on: results of unlike ones don't belong into one table."""
    import torch

    if the_device() == "cuda":
        return str(torch.cuda.get_device_name())
    return f"{len(os.sched_getaffinity(0))} cores, {torch.backends.cpu.get_cpu_capability()}"


# ---------------------------------------------------------------------------------------- all of them


def matching_of_mini() -> list[int]:
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
        letters, folder_name, dtype = arguments.worker
        sys.path.insert(0, str(Path(__file__).parent))  # where vLLM finds TrueContinuations
        work(letters, Path(folder_name), dtype, arguments.seconds)
        return

    output: Path | None = arguments.output
    results: dict[str, Any] = json.loads(output.read_text()) if output and output.exists() else {}
    matching = results.get("windows of mini by matched tokens") or matching_of_mini()
    results["windows of mini by matched tokens"] = matching
    with tempfile.TemporaryDirectory() as folder_name:
        for size in arguments.sizes.split(","):
            folder = Path(folder_name) / size
            make_model(size, folder)
            np.save(folder / "windows.npy", make_windows(folder, matching, arguments.windows, SIZES[size][3]))
            for dtype in arguments.dtypes.split(","):
                found = compare(arguments.only, folder, dtype, arguments.rounds, arguments.seconds)
                machine = found.pop("processor")
                if results.setdefault("processor", machine) != machine:
                    raise SystemExit(f"{output} was measured on {results['processor']}, this is {machine}")
                results[f"{size} {dtype}"] = found
                print_table(size, dtype, found, machine)
                if output:
                    output.write_text(json.dumps(results, indent=2) + "\n")


def print_table(size: str, dtype: str, found: dict[str, Any], machine: str) -> None:
    """One size and dtype: windows a second, shares of the ceiling and ratios."""
    rates, products = found["rates"], found["products"]
    counted = max(products, key=products.__getitem__)
    print(f"\n{size}: {parameters(size):,} parameters, {dtype}, {machine}")
    print("matrix products, GFLOP/s: " + ", ".join(f"{k} {v / 1e9:.0f}" for k, v in products.items()))
    if counted != dtype:
        print(f"the ceiling is that of {counted}: what this processor multiplies {dtype} by at its fastest")
    columns = (
        f"{'windows/s':>9} {'lowest':>8} {'highest':>8} {'of ceiling':>10} {'x a':>7} {'x c':>7} {'x d':>7}"
    )
    print(f"{'':32} {columns}")
    for which in sorted(rates):
        own = rates[which]["windows_per_second"]
        ratios = []
        for other in "acd":
            others = rates.get(other, {}).get("windows_per_second")
            by_round = [x / y for x, y in zip(own, others, strict=True)] if others else []
            ratios.append(f"{statistics.median(by_round):7.2f}" if by_round else " " * 7)
        costs = "  ".join(
            f"{k} {rates[which][k]:.2f} s" for k in ("cold start", "checkpoint switch") if k in rates[which]
        )
        middle = statistics.median(own)
        share = middle * flops(which, size) / products[counted]
        figures = f"{middle:9.1f} {min(own):8.1f} {max(own):8.1f} {share:10.0%} {' '.join(ratios)}"
        print(f"{which} {NAMES[which]:30} {figures}  {costs}", flush=True)


if __name__ == "__main__":
    main()
