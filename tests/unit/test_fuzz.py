"""Damaged and hostile files: refused in words, in little memory and time (longer: scripts/fuzz.py)."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator

import psutil
import pytest
from fuzz_targets import SEEDS, read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.thorough

ROOM = 1 << 30
"""Bytes that reading a file of a few kB may take at most."""

SPECIAL = [
    b"\0" * 8,
    b"\xff" * 8,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"[" * 5000,
    b"{",
    b"9" * 5000,
    b"\n",
]


@pytest.fixture(autouse=True)
def little_room() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@st.composite
def mutated(draw: st.DrawFn, seed: bytes) -> bytes:
    content = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        what = draw(st.sampled_from(["byte", "cut", "insert", "special", "repeat"]))
        if what == "byte" and content:
            content[at] = draw(st.integers(0, 255))
        elif what == "cut":
            del content[at : at + draw(st.integers(1, 50))]
        elif what == "insert":
            content[at:at] = draw(st.binary(max_size=12))
        elif what == "special":
            value = draw(st.sampled_from(SPECIAL))
            content[at : at + draw(st.sampled_from([0, len(value)]))] = value
        else:
            content[at:at] = content[at : at + 200] * draw(st.integers(1, 20))
    return bytes(content)


@pytest.mark.parametrize("kind", sorted(SEEDS))
def test_a_file_like_ours(kind: str) -> None:
    seed = SEEDS[kind]()
    if kind not in ("manifest", "checksums"):
        assert read(kind, seed)

    @given(mutated(seed))
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    def try_it(content: bytes) -> None:
        began = time.process_time()
        read(kind, content)
        assert time.process_time() - began < 10

    try_it()


@pytest.mark.parametrize("kind", sorted(SEEDS))
def test_garbage(kind: str) -> None:
    for content in (b"", b"\0" * 100_000, b"[" * 100_000, b'{"a":' * 50_000, b"9" * 100_000, b"\xff" * 1000):
        read(kind, content)
