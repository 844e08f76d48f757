"""The suite that looks like life, of tests alone: it loads, and its labels and card are true of its data."""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import Cli
from numpy.typing import NDArray

from memoserve.suites import load_suite, shipped_suites

FOLDER = Path(__file__).parents[1] / "support" / "suites" / "lifelike"
CARD = (FOLDER / "README.md").read_text()
TRAINED = 32_032
TOKENS = 81
KINDS = ("exact", "edited", "template", "repeating", "counting", "sequence")


@pytest.fixture(scope="module")
def sequences() -> NDArray[np.uint16]:
    """u16[32532, 81], the control last: the data are of one length, so the index isn't needed."""
    return np.fromfile(FOLDER / "data" / "train.bin", dtype="<u2").reshape(-1, TOKENS)


@pytest.fixture(scope="module")
def planted() -> dict[str, NDArray[Any]]:
    table = pq.read_table(FOLDER / "planted.parquet")
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


def numbers(pattern: str) -> list[int]:
    """The numbers that the card has where the pattern has groups; a line's end is a space."""
    match = re.search(pattern, " ".join(CARD.split()))
    assert match, pattern
    return [int(group.replace(",", "")) for group in match.groups()]


def test_it_loads_by_its_path_and_does_not_ship() -> None:
    suite = load_suite(FOLDER)
    assert suite.name == "lifelike"
    assert suite.name not in shipped_suites()
    assert [model.name for model in suite.models] == ["46k", "84k", "215k", "1.4m"]
    assert suite.trained == TRAINED
    assert suite.models[-1].parameters >= 30 * suite.models[0].parameters


def test_its_weights_pass_the_checks(cli: Cli) -> None:
    file = FOLDER / "suite.toml"
    result = cli("suite", "check", file, "--checkpoints", "46k@1001", "--format", "json")
    checks = json.loads(result.stdout)
    assert "46k@1001" in {check["subject"] for check in checks}
    assert {check["result"] for check in checks} <= {"passed", "not checked"}


def test_the_card_counts_its_windows(sequences: NDArray[np.uint16]) -> None:
    assert len(sequences) == TRAINED + 500
    data_hash = hashlib.sha256((FOLDER / "data" / "train.bin").read_bytes()).hexdigest()
    assert f"`data/train.bin` (SHA-256 `{data_hash}`)" in CARD
    windows = sequences[:TRAINED, :64]
    copies = np.unique(np.unique(windows, axis=0, return_counts=True)[1], return_counts=True)
    counts = dict(zip(*(column.tolist() for column in copies), strict=True))
    assert numbers(
        r"([\d,]+) sequences have ([\d,]+) distinct windows of 64 tokens: ([\d,]+) occur once, "
        r"([\d,]+) twice, ([\d,]+) more often \(up to ([\d,]+) times\)"
    ) == [
        TRAINED,
        sum(counts.values()),
        counts[1],
        counts[2],
        sum(number for times, number in counts.items() if times > 2),
        max(counts),
    ]


def test_the_control_shares_no_run_of_32_tokens_with_training(sequences: NDArray[np.uint16]) -> None:
    """By a hash of each run: equal runs have equal hashes."""
    factors = np.random.default_rng(1).integers(0, 2**63, 32, dtype=np.uint64) | np.uint64(1)
    hashes = np.zeros((len(sequences), TOKENS - 31), dtype=np.uint64)
    for i, factor in enumerate(factors):
        hashes += sequences[:, i : TOKENS - 31 + i].astype(np.uint64) * factor
    assert not np.isin(hashes[TRAINED:], hashes[:TRAINED]).any()


def test_labels_lie_inside_the_training_sequences(planted: dict[str, NDArray[Any]]) -> None:
    assert set(planted["kind"].tolist()) == set(KINDS)
    assert 0 <= planted["sequence_id"].min() <= planted["sequence_id"].max() < TRAINED
    assert planted["first_token"].min() >= 0
    assert planted["tokens"].min() >= 1
    assert (planted["first_token"] + planted["tokens"]).max() == TOKENS


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_counts_what_is_planted(planted: dict[str, NDArray[Any]], kind: str) -> None:
    of_kind = {name: column[planted["kind"] == kind] for name, column in planted.items()}
    share = of_kind["tokens"].sum() / (TRAINED * TOKENS)
    assert numbers(rf"\| {kind} \| ([\d,]+) \| (\d+) to (\d+) \| ([\d,]+) \| {100 * share:.1f}% \|") == [
        len(set(of_kind["passage"].tolist())),
        of_kind["copies"].min(),
        of_kind["copies"].max(),
        len(set(of_kind["sequence_id"].tolist())),
    ]


@pytest.mark.parametrize("kind", ["exact", "sequence"])
def test_labelled_copies_are_copies(
    sequences: NDArray[np.uint16], planted: dict[str, NDArray[Any]], kind: str
) -> None:
    """Whole copies have tokens in equal numbers, and together no more runs than the passage has."""
    tokens: Counter[int] = Counter()
    runs: dict[int, set[bytes]] = {}
    rows = np.flatnonzero(planted["kind"] == kind)
    copies = dict(zip(planted["passage"][rows].tolist(), planted["copies"][rows].tolist(), strict=True))
    for row in rows:
        first, count = int(planted["first_token"][row]), int(planted["tokens"][row])
        piece = sequences[planted["sequence_id"][row], first : first + count]
        passage = int(planted["passage"][row])
        tokens[passage] += count
        runs.setdefault(passage, set()).update(piece[i : i + 16].tobytes() for i in range(count - 15))
    for passage, times in copies.items():
        length, left = divmod(tokens[passage], times)
        assert left == 0
        assert length == TOKENS if kind == "sequence" else 72 <= length <= 200
        assert len(runs[passage]) <= length - 15
