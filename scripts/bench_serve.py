#!/usr/bin/env python
"""Many readers on loopback while a run writes: requests, errors, and how long answers take.

Starts `memoserve serve` on a store of its own with made-up scores (synthetic), adds a part to it every second
as a run does, and lets readers ask for the dashboard's answers, one after another. Prints one line a kind of
question, p50 and p99 in milliseconds. Exit code 1 if any request failed.

    python scripts/bench_serve.py --readers 100 --seconds 30
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from types import SimpleNamespace

import httpx
import numpy as np

from memoserve.store import Store
from memoserve.suites import load_suite, select

QUESTIONS = (
    "/api/store",
    "/api/checkpoints?suite=mini",
    "/api/queries/predictors",
    "/api/queries/counts",
    "/api/plots/predictors",
    "/api/runs",
    "/api/queries",
)
SQL = "SELECT model, step, count(*) AS memorized FROM memorized GROUP BY ALL ORDER BY ALL"
PART = 500


class Writer(threading.Thread):
    """Writes a part a second, of one checkpoint after the other."""

    def __init__(self, path: Path, first: int) -> None:
        super().__init__(daemon=True)
        suite = load_suite("mini")
        self.store = Store.create(path)
        self.store.claim(suite, {"suite": "mini", "engine": "synthetic", "mode": "extract"})
        self.checkpoints = select(suite, "all")
        self.done = 0
        self.ending = threading.Event()
        for _ in range(first):
            self.write()

    def write(self) -> None:
        """One part of made-up scores."""
        round_, index = divmod(self.done, len(self.checkpoints))
        ids = np.arange(round_ * PART, (round_ + 1) * PART, dtype=np.int64)
        prefixes = ((ids * 7 + 5 * index) % 33).astype(np.uint8)
        matches = SimpleNamespace(
            matched_prefix=prefixes, match_mask=None, matches=None, continuation_ll=None
        )
        self.store.write_scores(
            self.checkpoints[index], int(ids[0]), int(ids[-1]) + 1, ids, matches, "synthetic"
        )
        self.done += 1

    def run(self) -> None:
        """Until `ending` is set."""
        while not self.ending.wait(1.0):
            self.write()


async def read(
    client: httpx.AsyncClient,
    number: int,
    until: float,
    pause: float,
    took: dict[str, list[float]],
    failed: list[str],
) -> None:
    """One reader: it asks, takes the whole answer, rests `pause` seconds on average, asks the next thing."""
    random = Random(number)
    while time.monotonic() < until:
        await asyncio.sleep(random.uniform(0, 2 * pause))
        question = (*QUESTIONS, "POST /api/sql")[number % (len(QUESTIONS) + 1)]
        number += 1
        began = time.monotonic()
        try:
            if question.startswith("POST"):
                answer = await client.post("/api/sql", json={"sql": SQL})
            else:
                answer = await client.get(question)
            if answer.status_code != 200:
                failed.append(f"{question}: {answer.status_code} {answer.text[:200]}")
        except httpx.HTTPError as error:
            failed.append(f"{question}: {error!r}")
        took.setdefault(question, []).append(time.monotonic() - began)


async def readers(
    url: str, count: int, seconds: float, pause: float
) -> tuple[dict[str, list[float]], list[str]]:
    """Many of them at once, each with a connection of its own."""
    took: dict[str, list[float]] = {}
    failed: list[str] = []
    async with AsyncExitStack() as stack:
        # Made before the clock starts: a client reads all certificates of the system first.
        clients = [
            await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=120, verify=False))
            for _ in range(count)
        ]
        until = time.monotonic() + seconds
        await asyncio.gather(
            *(read(client, number, until, pause, took, failed) for number, client in enumerate(clients))
        )
    return took, failed


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--readers", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--pause", type=float, default=0.0, help="of a reader between two questions, mean")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        writer = Writer(Path(folder) / "store", first=56)
        command = [sys.executable, "-m", "memoserve", "serve", str(writer.store.path), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            found = re.search(r"http://\S+", server.stdout.readline())
            assert found
            url = found[0].rstrip("/")
            began = time.monotonic()
            httpx.get(f"{url}/api/queries/predictors", timeout=60).raise_for_status()
            first = time.monotonic() - began
            writer.start()
            before = writer.done
            took, failed = asyncio.run(readers(url, options.readers, options.seconds, options.pause))
            writer.ending.set()
            writer.join()
            server.terminate()
    everything = np.array([one for each in took.values() for one in each]) * 1000
    print(
        f"{options.readers} readers, {options.seconds:.0f} s, {len(everything):,} answers "
        f"({len(everything) / options.seconds:.0f}/s), {len(failed)} failed; "
        f"{writer.done - before} parts written meanwhile (synthetic scores); "
        f"first answer {first:.1f} s after the start"
    )
    all_of_them: list[tuple[str, list[float]]] = [("all", (everything / 1000).tolist())]
    for name, each in [*all_of_them, *sorted(took.items())]:
        low, high = np.percentile(np.array(each) * 1000, [50, 99])
        print(f"{name:32} {len(each):7,}  p50 {low:8.1f} ms  p99 {high:8.1f} ms")
    for line in failed[:10]:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
