#!/usr/bin/env python3
"""Feed damaged files to memoserve for as long as you like: scripts/fuzz.py KIND [SECONDS] [SEED].

KIND is one of those of tests/support/fuzz_targets.py, or `all`.
 With atheris installed (pip install atheris) one
kind is guided by which lines an input reaches; without, inputs are changed at random. Whatever is no error
in words ends it, with the input in a file. Address space is limited to 4 GiB, an input to 20 s.
"""

from __future__ import annotations

import random
import resource
import signal
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests" / "support")]


def by_chance(kind: str, seconds: float, seed: int) -> int:
    """Random changes of a valid file for some seconds; how many inputs there were."""
    from fuzz_targets import SEEDS, read

    chance = random.Random(seed)
    valid = SEEDS[kind]()
    special = [
        b"\0" * 8,
        b"\xff" * 8,
        b"\x7f\xff\xff\xff",
        b"\xff\xff\xff\x7f",
        b"[" * 5000,
        b"9" * 5000,
        b"-1",
    ]
    until, inputs = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        content = bytearray(valid)
        for _ in range(chance.randint(1, 5)):
            at = chance.randrange(len(content) + 1)
            piece = chance.choice([*special, chance.randbytes(chance.randint(1, 8)), valid[at : at + 100]])
            content[at : at + chance.choice([0, 1, len(piece), 60])] = piece
        signal.alarm(20)
        try:
            read(kind, bytes(content))
        except BaseException as error:
            file = Path(f"fuzz-{kind}-{seed}-{inputs}.bin")
            file.write_bytes(content)
            print(f"{kind}: {type(error).__name__} after {inputs} inputs: {file}", flush=True)
            raise
        signal.alarm(0)
        inputs += 1
    return inputs


def guided(kind: str, seconds: float) -> None:
    """Atheris, until the time is over; it ends the process."""
    import atheris

    with atheris.instrument_imports(include=["memoserve"]):
        from fuzz_targets import SEEDS, read
    corpus = Path(f"/tmp/fuzz-corpus-{kind}")
    corpus.mkdir(exist_ok=True)
    (corpus / "valid").write_bytes(SEEDS[kind]())
    options = [f"-max_total_time={int(seconds)}", "-timeout=20", "-rss_limit_mb=4096", "-max_len=20000"]
    atheris.Setup([sys.argv[0], str(corpus), *options], lambda content: read(kind, content))
    atheris.Fuzz()


def main() -> None:
    """See the module."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    kind, seconds = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
    try:
        import atheris  # noqa: F401

        if kind != "all":
            guided(kind, seconds)
            return
    except ImportError:
        pass
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    from fuzz_targets import SEEDS

    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(2**31)
    for one in SEEDS if kind == "all" else [kind]:
        print(f"{one}: {by_chance(one, seconds, seed):,} inputs (seed {seed})", flush=True)


if __name__ == "__main__":
    main()
