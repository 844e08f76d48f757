"""Ranges and samples of sequences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoserve.errors import BadInput
from memoserve.sequences import Selection, parse_range

FRACTIONS = st.floats(1e-6, 1.0)
SEEDS = st.integers(-(2**63), 2**64)


@given(st.integers(0, 2**40), st.integers(1, 3000), FRACTIONS, FRACTIONS, SEEDS, st.data())
def test_samples_nest_and_come_in_parts(
    first: int, length: int, one: float, other: float, seed: int, data: st.DataObject
) -> None:
    stop = first + length
    small = Selection(first, stop, min(one, other), seed)
    large = Selection(first, stop, max(one, other), seed)
    ids = small.ids(0, stop + 10)
    assert ids.dtype == np.int64
    assert (np.diff(ids) > 0).all()
    assert set(ids.tolist()) <= set(large.ids(first, stop).tolist()) <= set(range(first, stop))
    # Any cut of the range gives the same ids, and a wider range the same ones of this range.
    cut = data.draw(st.integers(first, stop))
    assert [*small.ids(0, cut), *small.ids(cut, 2**62)] == ids.tolist()
    wider = Selection(max(0, first - 100), stop + 100, small.fraction, seed).ids(first, stop)
    assert wider.tolist() == ids.tolist()
    assert Selection(first, stop).ids(0, stop).tolist() == list(range(first, stop))


@pytest.mark.parametrize("fraction", [0.5, 0.1, 0.001])
def test_the_size_of_a_sample_is_the_fraction(fraction: float) -> None:
    count = 3_000_000  # more than the block that is drawn at once
    samples = [Selection(0, count, fraction, seed).ids(0, count) for seed in range(3)]
    for ids in samples:
        deviation = (count * fraction * (1 - fraction)) ** 0.5
        assert abs(len(ids) - count * fraction) < 5 * deviation
        halves = np.bincount((ids >= count // 2).astype(int), minlength=2)
        assert abs(int(halves[0]) - int(halves[1])) < 5 * deviation
    # Seeds are independent: two samples share about fraction squared of all.
    shared = len(np.intersect1d(samples[0], samples[1]))
    assert abs(shared - count * fraction**2) < 6 * (count * fraction**2) ** 0.5 + 5


def test_the_sample_stays_the_same_between_releases() -> None:
    # SplitMix64 as its authors publish it, in Python integers.
    def mix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    assert mix(0) == 0xE220A8397B1DCDAF  # the published first output for seed 0
    expected = [i for i in range(5000) if mix(i ^ mix(42)) < 2**64 // 100]
    assert Selection(0, 5000, 0.01, 42).ids(0, 5000).tolist() == expected
    assert len(expected) > 20


@pytest.mark.parametrize(
    "wrong", [(5, 5), (-1, 5), (7, 3), (0, 5, 0.0), (0, 5, 1.1), (0, 5, -0.1), (0, 5, float("nan"))]
)
def test_selections_that_make_no_sense_are_refused(wrong: tuple[int, int]) -> None:
    with pytest.raises(BadInput):
        Selection(*wrong)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0:1000", (0, 1000)), (":7", (0, 7)), ("5000:", (5000, 10000)), (":", (0, 10000)), (" 3:4 ", (3, 4))],
)
def test_ranges(text: str, expected: tuple[int, int]) -> None:
    assert parse_range(text, 10000) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a range"),
        ("5", "not a range"),
        ("1:2:3", "not a range"),
        ("-1:5", "not a range"),
        ("a:b", "not a range"),
        ("\u0661:\u0665", "not a range"),
        ("1_0:20", "not a range"),
        ("0:" + "9" * 5000, "not a range"),
        ("5:5", "holds no sequence"),
        ("9:5", "holds no sequence"),
        ("10000:", "holds no sequence"),
        ("0:10001", "beyond the 10,000"),
        ("20000:", "beyond the 10,000"),
    ],
)
def test_malformed_empty_and_too_long_ranges_are_refused(text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        parse_range(text, 10000)
