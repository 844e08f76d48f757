#!/usr/bin/env python3
"""What the whole Pythia study would cost in GPU hours, from FLOPs and bandwidth: estimated, not measured.

    python scripts/estimate_study.py --tflops 989 --bandwidth 3.35 --share 0.4

Per window of 32 + 32 tokens, of a model with B parameters in L layers of width h and H in the LM head, 2
bytes a number:

    without ladder    2 (B (63 - 31 * 3/4 / L) + 32 H) FLOPs: of the 31 tokens before the continuation's first
                      the last layer only makes queries, keys and values, a quarter of its products, and the
                      LM head none
    extract           2 (B (32 - 31 * 3/4 / L) + H) for the first continuation token, and 2 * 31 (B + H) for
                      the rest of those that match it (further stages spare more, and are not counted)
    score             the first of these for all; then each of 31 decoding steps reads the weights once for
                      `--together` windows, and the keys and values so far, 2 L h 2 bytes a token
    the paper's way   generate without a cache reads 32 + 33 + ... + 63 = 1,520 tokens: 2 (B + H) 1520 FLOPs

hours = max(FLOPs / (share x peak), bytes / (0.7 x bandwidth)) / 3600, prefill and decoding added.
"""

from __future__ import annotations

import argparse

from memoserve.suites import load_suite, select

STEPS = (23000, 43000, 63000, 83000, 103000, 123000, 143000)
# name: layers, width (the suite's models as published)
SHAPES = {
    "70m": (6, 512), "160m": (12, 768), "410m": (24, 1024), "1b": (16, 2048),
    "1.4b": (24, 2048), "2.8b": (32, 2560), "6.9b": (32, 4096), "12b": (36, 5120),
}  # fmt: skip
CONTEXT, CONTINUATION = 32, 32
READ = CONTEXT + CONTINUATION - 1
UNCACHED = sum(range(CONTEXT, CONTEXT + CONTINUATION))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tflops", type=float, default=989.0, help="peak of 16-bit products (H100: 989)")
    parser.add_argument("--bandwidth", type=float, default=3.35, help="TB/s of memory (H100: 3.35)")
    parser.add_argument("--share", type=float, default=0.4, help="of the peak that is reached")
    parser.add_argument("--together", type=int, default=1024, help="windows decoded together")
    parser.add_argument(
        "--matching",
        type=float,
        default=0.5,
        help="share of windows that match the first token (mini's largest model: 0.5)",
    )
    arguments = parser.parse_args()
    suites = [load_suite("pythia"), load_suite("pythia-deduped")]
    flops_per_hour = arguments.share * arguments.tflops * 1e12 * 3600
    bytes_per_hour = 0.7 * arguments.bandwidth * 1e12 * 3600
    total = dict.fromkeys(("windows", "extract", "whole", "score", "paper"), 0.0)
    print(
        f"{'model (standard and deduped)':30} {'windows':>10} {'extract':>9} {'no ladder':>9} {'score':>9} "
        f"{'paper':>10}  GPU hours"
    )
    for name, (layers, width) in SHAPES.items():
        windows, body, head = 0, 0.0, 0.0
        for suite in suites:
            chosen = select(suite, ",".join(f"{name}@{step}" for step in STEPS))
            windows += sum(min(c.sequences_seen, suite.sequences.trained) for c in chosen)
            model = chosen[0].model
            body = model.parameters_without_embeddings
            head = (model.parameters - model.parameters_without_embeddings) / 2
        hours = 2 * windows / flops_per_hour
        spared = 0.75 * (CONTEXT - 1) / layers
        whole = hours * (body * (READ - spared) + head * CONTINUATION)
        first = hours * (body * (CONTEXT - spared) + head)
        steps = CONTINUATION - 1
        rest = hours * (body + head) * steps
        read_bytes = 2 * (body + head) / arguments.together + 2 * layers * width * 2 * (CONTEXT + steps / 2)
        decoding = max(rest, windows * steps * read_bytes / bytes_per_hour)
        row = {
            "windows": windows,
            "extract": first + arguments.matching * rest,
            "whole": whole,
            "score": first + decoding,
            "paper": hours * (body + head) * UNCACHED,
        }
        for key, value in row.items():
            total[key] += value
        print(line(name, row))
    print(line("all 16 models, 7 checkpoints", total))


def line(name: str, row: dict[str, float]) -> str:
    return (
        f"{name:30} {row['windows']:10.3g} {row['extract']:9,.1f} {row['whole']:9,.1f} {row['score']:9,.1f} "
        f"{row['paper']:10,.1f}"
    )


if __name__ == "__main__":
    main()
