"""Features, against counting by hand: dictionaries of tuples, sets, zlib."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import zlib
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from brute_force import Read, ask, same, units
from command_line import Cli
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from random_stores import World, random_world
from store_parts import parts_in, rewrite

import memoserve
from memoserve.catalog import Catalog
from memoserve.errors import BadInput, StoreConflict
from memoserve.features import compression
from memoserve.features.added import add_table
from memoserve.features.corpus import Corpus, Counts
from memoserve.features.job import BYTES_A_WINDOW, FeaturesJob
from memoserve.features.keys import KeyTable
from memoserve.features.near_duplicates import NEAR, SHINGLE, clusters, similarity
from memoserve.features.options import Options
from memoserve.features.patterns import incrementing_numbers, repetition
from memoserve.features.runs import RunIndex
from memoserve.features.tokens import TokenClasses, document_position, pieces_of, texts_of
from memoserve.features.windows import WindowIndex
from memoserve.sequences import load_tokenizer, open_sequences
from memoserve.store import Store
from memoserve.store.features import ADDED, FEATURES, RUN_LENGTHS
from memoserve.store.verify import repair, verify
from memoserve.suites import Suite

Rows = list[list[int]]


def planted(seed: int, sequences: int, width: int, vocabulary: int) -> NDArray[np.uint32]:
    """Random sequences, with copies of whole ones and of pieces at any offset."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocabulary, (sequences, width), dtype=np.uint32)
    for _ in range(sequences // 2):
        source, target = rng.integers(0, sequences, 2)
        length = int(rng.integers(1, width + 1))
        if rng.random() < 0.4:
            tokens[target, :length] = tokens[source, :length]
        else:
            here, there = rng.integers(0, width - length + 1, 2)
            tokens[target, there : there + length] = tokens[source, here : here + length].copy()
    return tokens


def runs_in(sequences: Rows, length: int) -> Counter[tuple[int, ...]]:
    """How often each run of tokens stands in sequences, at any offset."""
    return Counter(tuple(one[at : at + length]) for one in sequences for at in range(len(one) - length + 1))


def expected_runs(windows: Rows, context: int, sequences: Rows) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{} for _ in windows]
    for length in RUN_LENGTHS:
        counted = runs_in(sequences, length)
        for window, columns in zip(windows, found, strict=True):
            for half, tokens in (("context", window[:context]), ("continuation", window[context:])):
                counts = [counted[tuple(tokens[at : at + length])] for at in range(len(tokens) - length + 1)]
                columns[f"{half}_runs{length}_least"] = min(counts, default=None)
                columns[f"{half}_runs{length}_mean_log"] = (
                    sum(math.log(1 + count) for count in counts) / len(counts) if counts else None
                )
    return found


class TestRuns:
    @settings(max_examples=40)
    @given(
        seed=st.integers(0, 10**6),
        vocabulary=st.sampled_from([2, 3, 40, 70_000, 2**32]),
        context=st.sampled_from([1, 7, 8, 20, 32, 40]),
        width=st.integers(1, 200),
    )
    def test_counts_are_those_of_a_dictionary(
        self, seed: int, vocabulary: int, context: int, width: int
    ) -> None:
        length = context + 32
        tokens = planted(seed, 30, max(width, length), vocabulary)
        windows = np.unique(tokens[:12, :length], axis=0)
        corpus = tokens[:, :width]
        index = RunIndex(windows, context)
        tallies = index.tallies()
        for block in (corpus[:17], corpus[17:]):
            tallies.add(index.find(block))
        found = list(index.summary(windows, tallies))
        for row, columns in enumerate(expected_runs(windows.tolist(), context, corpus.tolist())):
            for half, size, least, mean_log in found:
                assert columns[f"{half}_runs{size}_least"] == (None if least is None else least[row])
                wanted = columns[f"{half}_runs{size}_mean_log"]
                assert (mean_log is None) == (wanted is None)
                assert mean_log is None or mean_log[row] == pytest.approx(wanted, rel=1e-6)

    def test_a_run_never_goes_from_one_sequence_into_the_next(self) -> None:
        window = np.arange(64, dtype=np.uint32)[None]
        corpus = np.concatenate([window[0, :32], window[0, :32]]).reshape(16, 4)
        index = RunIndex(window, 32)
        assert [len(found) for found in index.find(corpus)] == [0, 0, 0]
        assert [len(found) for found in index.find(corpus.reshape(8, 8))] == [8, 0, 0]
        assert [len(found) for found in index.find(corpus.reshape(2, 32))] == [50, 34, 2]

    def test_a_run_across_context_and_continuation_is_neither_s(self) -> None:
        window = np.arange(64, dtype=np.uint32)[None]
        assert [len(found) for found in RunIndex(window, 32).find(window[:, 25:39])] == [0, 0, 0]

    def test_two_runs_of_one_hash_are_told_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With hashes that say nearly nothing, comparing tokens keeps the counts right, or refuses."""
        from memoserve.features import runs

        tokens = planted(3, 40, 100, 50)
        windows = np.unique(tokens[:5, :64], axis=0)
        index = RunIndex(windows, 32)
        known = set(np.unique(runs._hashes(windows.ravel(), index._factors)).tolist())
        usual = runs._hashes

        def colliding(tokens: Any, factors: Any) -> Any:
            hashes = usual(tokens, factors)
            strange = ~np.isin(hashes, list(known))
            hashes[strange] = min(known)
            return hashes

        monkeypatch.setattr(runs, "_hashes", colliding)
        tallies = index.tallies()
        tallies.add(index.find(tokens))
        monkeypatch.undo()
        again = index.tallies()
        again.add(index.find(tokens))
        for one, other in zip(tallies.counts, again.counts, strict=True):
            assert one.tolist() == other.tolist()
        monkeypatch.setattr(runs, "_hashes", lambda tokens, factors: usual(tokens, factors) & np.uint64(7))
        with pytest.raises(ArithmeticError):
            RunIndex(windows, 32)


@settings(max_examples=50)
@given(
    keys=st.lists(st.integers(0, 2**64 - 1), max_size=200, unique=True),
    asked=st.lists(st.integers(0, 2**64 - 1), max_size=50),
)
def test_keys_are_found_where_they_are(keys: list[int], asked: list[int]) -> None:
    known = np.array(sorted(keys), np.uint64)
    table = KeyTable(known, known[:, None], sieve=True)
    asked = asked + keys[::2]
    wanted = np.array(asked, np.uint64)
    found = table.find(wanted, wanted[:, None]).tolist()
    assert found == [sorted(keys).index(key) if key in keys else -1 for key in asked]
    passed = set(table.candidates(np.array(asked, np.uint64)).tolist())
    assert {place for place, number in enumerate(found) if number >= 0} <= passed


def jsonl(folder: Path, sequences: Rows) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "data.jsonl"
    file.write_text("".join(json.dumps({"tokens": one}) + "\n" for one in sequences))
    return file


class TestCorpus:
    @pytest.fixture
    def sequences(self) -> Rows:
        """Of many lengths, some shorter than a run, some shorter than a window."""
        rng = np.random.default_rng(5)
        rows = planted(5, 400, 120, 9).tolist()
        return [row[: rng.choice([1, 7, 8, 40, 64, 65, 120])] for row in rows]

    def corpus(self, folder: Path, sequences: Rows) -> tuple[Corpus, RunIndex, NDArray[np.uint32]]:
        windows = np.unique(
            np.array([one[:64] for one in sequences if len(one) >= 64][:60], np.uint32), axis=0
        )
        runs = RunIndex(windows, 32)
        source = open_sequences(jsonl(folder, sequences))
        return Corpus(source, 350, runs, WindowIndex(windows), 64), runs, windows

    def test_sequences_of_every_length(self, tmp_path: Path, sequences: Rows) -> None:
        corpus, runs, windows = self.corpus(tmp_path, sequences)
        counts = Counts(runs.tallies(), np.zeros(1, np.int64))
        corpus.count(counts)
        trained = sequences[:350]
        for row, columns in enumerate(expected_runs(windows.tolist(), 32, trained)):
            for half, length, least, _ in runs.summary(windows, counts.runs):
                assert least is not None
                assert least[row] == columns[f"{half}_runs{length}_least"]
        tokens = Counter(token for one in trained for token in one)
        assert counts.tokens.tolist() == [tokens[token] for token in range(len(counts.tokens))]
        rows, ids = counts.occurrences()
        expected = [
            (row, i)
            for row, window in enumerate(windows.tolist())
            for i, one in enumerate(trained)
            if one[:64] == window
        ]
        assert list(zip(rows.tolist(), ids.tolist(), strict=True)) == expected

    @pytest.mark.parametrize("stop", [0, 1, 123, 349, 350])
    def test_goes_on_from_what_was_saved(self, tmp_path: Path, sequences: Rows, stop: int) -> None:
        corpus, runs, _ = self.corpus(tmp_path, sequences)
        whole, part = (Counts(runs.tallies(), np.zeros(1, np.int64)) for _ in range(2))
        corpus.count(whole)
        saved: list[bytes] = []
        corpus.count(part, stop=stop, save=lambda counts: saved.append(counts.to_bytes("these")))
        found = Counts.from_bytes(saved[-1])
        assert found is not None
        assert found[0] == "these"
        assert found[1].done == stop
        corpus.count(found[1])
        assert found[1].to_bytes("x") == whole.to_bytes("x")
        damaged = bytearray(saved[-1])
        damaged[len(damaged) // 2] ^= 1
        assert Counts.from_bytes(bytes(damaged)) is None
        assert Counts.from_bytes(saved[-1][:-1]) is None
        assert Counts.from_bytes(b"") is None


def shingles(window: list[int]) -> set[tuple[int, ...]]:
    return {tuple(window[at : at + SHINGLE]) for at in range(len(window) - SHINGLE + 1)}


def jaccard(one: list[int], other: list[int]) -> float:
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


class TestNearDuplicates:
    def windows(self) -> NDArray[np.uint16]:
        """Families of windows that differ by edits and shifts, among others that don't."""
        rng = np.random.default_rng(1)
        rows = []
        for _ in range(40):
            base = rng.integers(0, 300, 90)
            rows.append(base[:64])
            for _ in range(rng.integers(0, 4)):
                shift = int(rng.integers(0, 12))
                copy = base[shift : shift + 64].copy()
                copy[rng.integers(0, 64, int(rng.integers(0, 4)))] = rng.integers(0, 300)
                rows.append(copy)
        return np.unique(np.array(rows, np.uint16), axis=0)

    def test_similarity_is_that_of_sets(self) -> None:
        rng = np.random.default_rng(2)
        one = rng.integers(0, 2, (50, 20)).astype(np.uint16)
        other = one.copy()
        other[np.arange(50), rng.integers(0, 20, 50)] ^= 1
        expected = [jaccard(a, b) for a, b in zip(one.tolist(), other.tolist(), strict=True)]
        assert similarity(one, other).tolist() == pytest.approx(expected)
        assert similarity(one, one).tolist() == [1.0] * 50

    def test_clusters_are_what_similar_pairs_connect(self) -> None:
        windows = self.windows()
        label = clusters(windows)
        similar = {
            (a, b): jaccard(windows[a].tolist(), windows[b].tolist())
            for a, b in combinations(range(len(windows)), 2)
        }
        group = list(range(len(windows)))
        for (a, b), share in similar.items():
            if share >= NEAR:
                one, other = group[a], group[b]
                group = [min(one, other) if g in (one, other) else g for g in group]
        # Nothing is together that similar pairs don't connect, and what is very similar always is.
        for (a, b), share in similar.items():
            if label[a] == label[b]:
                assert group[a] == group[b]
            if share >= 0.8:
                assert label[a] == label[b]
        assert (label == label[label]).all()
        assert (label <= np.arange(len(label))).all()
        assert 20 < len(set(label.tolist())) < len(windows)
        missed = sum(label[a] != label[b] for (a, b), share in similar.items() if share >= NEAR)
        assert missed <= 0.1 * sum(share >= NEAR for share in similar.values())


class TestPatterns:
    def test_repetition_is_the_greatest_share(self) -> None:
        windows = planted(9, 60, 64, 4)
        share, period = repetition(windows, 32)
        for row, window in enumerate(windows.tolist()):
            equal = {p: sum(window[i] == window[i - p] for i in range(32, 64)) for p in range(1, 33)}
            most = max(equal.values())
            assert share[row] == pytest.approx(most / 32)
            assert period[row] == min(p for p in equal if equal[p] == most)

    def test_nothing_repeats(self) -> None:
        share, period = repetition(np.arange(64, dtype=np.uint32)[None], 32)
        assert (share.tolist(), period.tolist()) == ([0], [0])

    @pytest.mark.parametrize(
        ("text", "numbers"),
        [
            ("", 0),
            ("1 2", 0),
            ("1 2 3", 3),
            ("5 5 5 5", 0),
            ("10, 8, 6, 4", 4),
            ("x1 y7 x2 y9 x3 y1 x4 y2", 4),
            ("1 a 5 b 9 c 13 0 0 17", 4),
            ("1 0 0 2 0 0 3 0 0 4", 4),
            ("1 2 3 5 7 9 11", 5),
            (" ".join(map(str, range(400))), 255),
        ],
    )
    def test_incrementing(self, text: str, numbers: int) -> None:
        assert incrementing_numbers(text.encode()) == numbers

    def test_documents(self) -> None:
        windows = np.array([[1, 2, 3, 4, 5, 6], [0, 2, 0, 4, 5, 6], [1, 2, 3, 4, 0, 0], [0, 2, 3, 0, 1, 0]])
        position, end = document_position(windows.astype(np.uint32), 3, 0)
        assert position.tolist() == [None, 0, None, 2]
        assert end.tolist() == [None, None, 1, 0]


def test_pieces_are_the_text(mini: Suite) -> None:
    """What byte-level pieces say is what the tokenizer decodes."""
    tokenizer = load_tokenizer(str(mini.sequences.tokenizer))
    pieces = pieces_of(tokenizer)
    source = open_sequences(str(mini.sequences.path))
    windows = source.read(0, 300, 64)
    decoded = tokenizer.decode_batch(windows.tolist(), skip_special_tokens=False)
    assert [text.decode(errors="replace") for text in texts_of(windows, pieces)] == decoded
    shares = TokenClasses.of(pieces).shares(windows)
    for row, text in enumerate(decoded):
        for kind, belongs in (("letter", str.isalpha), ("whitespace", str.isspace), ("digit", str.isdigit)):
            assert shares[kind][row] == pytest.approx(sum(map(belongs, text)) / len(text), abs=0.02)
        code = sum(c in "{}[]()<>=;:+*/\\|&^%$#@~_`" for c in text) / len(text)
        assert shares["code"][row] == pytest.approx(code, abs=0.02)
    with pytest.raises(BadInput, match="the tokenizer knows 0 to"):
        texts_of(np.full((1, 64), len(pieces), np.uint32), pieces)


# A whole suite

TRAINED, CONTROL, BATCH, WIDTH = 1000, 40, 25, 90
STEPS = (3, 17, 40)


def suite_over(folder: Path, tokens: NDArray[np.uint32], suite: str = "small") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "data.npy", tokens)
    (folder / "suite.toml").write_text(
        f'name = "{suite}"\nbatch_size = {BATCH}\nsequence_length = {WIDTH - 1}\neos = "ban"\n'
        f"eos_token_id = 0\nsteps = {list(STEPS)}\n[sequences]\npath = 'data.npy'\n"
        f"trained = {TRAINED}\ncontrol = [{TRAINED}, {TRAINED + CONTROL}]\n"
        "[[models]]\nname = 'm'\nparameters = 9\nparameters_without_embeddings = 9\nfolder = 'w/{step}'\n"
    )
    return folder / "suite.toml"


@pytest.fixture(scope="module")
def tokens() -> NDArray[np.uint32]:
    return planted(11, TRAINED + CONTROL, WIDTH, 30_000)


@pytest.fixture(scope="module")
def suite(tokens: NDArray[np.uint32], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return suite_over(tmp_path_factory.mktemp("suite"), tokens)


@pytest.fixture(scope="module")
def store(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "store"
    FeaturesJob(Options(suite=str(suite), out=str(path), part_size=300)).run()
    return path


def parts_of(store: Path) -> dict[str, bytes]:
    return {name: content for name, content in parts_in(store).items() if name.startswith("features/")}


def rows_of(store: Path, sql: str = "SELECT * FROM features ORDER BY sequence_id") -> list[dict[str, Any]]:
    with Catalog.open(store) as catalog:
        found = catalog.connection.execute(sql)
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


class TestFeatures:
    def test_every_column_is_what_counting_by_hand_gives(
        self, store: Path, suite: Path, tokens: NDArray[np.uint32]
    ) -> None:
        found = rows_of(store)
        assert [row["sequence_id"] for row in found] == list(range(TRAINED + CONTROL))
        assert {*found[0]} == {"suite", *(f.name for f in FEATURES)} - {"occurrence_ids"}
        windows = tokens[:, :64].tolist()
        runs = expected_runs(windows, 32, tokens[:TRAINED].tolist())
        times = Counter(tokens[:TRAINED].ravel().tolist())
        where: dict[tuple[int, ...], list[int]] = {}
        for i, window in enumerate(windows):
            where.setdefault(tuple(window), []).append(i)
        total = TRAINED * WIDTH
        zstd = compression.zstd()
        if zstd is not None:
            sample = [np.array(row, "<u2").tobytes() for row in tokens[:TRAINED].tolist()]
            dictionary = zstd.train_dict(sample, sum(map(len, sample)) // 8).as_digested_dict
        for row, window, columns in zip(found, windows, runs, strict=True):
            same = where[tuple(window)]
            trained = [i for i in same if i < TRAINED]
            assert row["window_number"] == same[0]
            assert row["occurrences"] == len(trained)
            assert row["last_occurrence"] == (trained[-1] if trained else None)
            since = TRAINED // BATCH - 1 - trained[-1] // BATCH if trained else None
            assert row["steps_since_last"] == since
            for name, value in columns.items():
                assert row[name] == pytest.approx(value, rel=1e-6), name
            logs = [math.log((1 + times[token]) / (1 + total)) for token in window[32:]]
            assert row["continuation_frequency_mean_log"] == pytest.approx(sum(logs) / 32, rel=1e-6)
            assert row["continuation_frequency_least_log"] == pytest.approx(min(logs), rel=1e-6)
            text = np.array(window, "<u2").tobytes()
            assert row["zlib_bytes"] == len(zlib.compress(text, 9))
            assert row["continuation_zlib_bytes"] == len(zlib.compress(text, 9)) - len(
                zlib.compress(text[:64], 9)
            )
            after = None if zstd is None else len(zstd.compress(text, 3, zstd_dict=dictionary))
            assert row["corpus_zstd_bytes"] == after
            assert row["distinct_tokens"] == len(set(window[32:]))
            assert (row["incrementing_numbers"], row["letter_share"]) == (None, None)

    def test_clusters_hold_equal_windows_and_count_distinct_ones(self, store: Path) -> None:
        found = rows_of(store)
        members: dict[int, set[int]] = {}
        for row in found:
            members.setdefault(row["cluster"], set()).add(row["window_number"])
        for row in found:
            assert row["cluster"] == min(members[row["cluster"]])
            assert row["cluster_windows"] == len(members[row["cluster"]])

    @pytest.mark.parametrize("seen", [0, 1, 75, 425, TRAINED, TRAINED + CONTROL])
    def test_occurrences_up_to_any_step(self, store: Path, tokens: NDArray[np.uint32], seen: int) -> None:
        windows = [tuple(window) for window in tokens[:, :64].tolist()]
        before = Counter(windows[: min(seen, TRAINED)])
        last = {window: i for i, window in enumerate(windows[: min(seen, TRAINED)])}
        sql = f"SELECT * FROM occurrences_before('small', {seen}) ORDER BY sequence_id"
        for row, window in zip(rows_of(store, sql), windows, strict=True):
            assert row["occurrences"] == before[window]
            assert row["last_occurrence"] == last.get(window)

    def test_little_memory_takes_more_passes_and_gives_the_same(
        self, store: Path, suite: Path, tmp_path: Path
    ) -> None:
        job = FeaturesJob(
            Options(suite=str(suite), out=str(tmp_path / "s"), part_size=300, memory=500 * BYTES_A_WINDOW)
        )
        assert job.estimate().passes == 3
        assert job.run().passes == 3
        assert parts_of(tmp_path / "s") == parts_of(store)

    def test_a_sample_has_the_same_counts(self, store: Path, suite: Path, tmp_path: Path) -> None:
        FeaturesJob(Options(suite=str(suite), out=str(tmp_path / "s"), sample=0.2, seed=4)).run()
        whole = {row["sequence_id"]: row for row in rows_of(store)}
        some = rows_of(tmp_path / "s")
        assert 100 < len(some) < 400
        for row in some:
            for name in row.keys() - {"window_number", "cluster", "cluster_windows"}:
                assert row[name] == whole[row["sequence_id"]][name], name

    def test_what_is_there_is_kept(self, suite: Path, tmp_path: Path) -> None:
        options = Options(suite=str(suite), out=str(tmp_path / "s"), part_size=300)
        FeaturesJob(options).run()
        before = parts_of(tmp_path / "s")
        assert len(before) == 4
        os.remove(tmp_path / "s" / sorted(before)[1])
        assert FeaturesJob(options).estimate().parts == 1
        assert FeaturesJob(options).run().parts == 1
        assert parts_of(tmp_path / "s") == before
        assert FeaturesJob(options).run().parts == 0
        assert "counting" not in os.listdir(tmp_path / "s" / "features" / "suite=small")

    def test_unlike_features_never_mix(self, suite: Path, tokens: NDArray[np.uint32], tmp_path: Path) -> None:
        out = str(tmp_path / "s")
        FeaturesJob(Options(suite=str(suite), out=out, sequences="0:50")).run()
        before = parts_of(tmp_path / "s")
        with pytest.raises(StoreConflict, match="range: 0:50 vs 0:60"):
            FeaturesJob(Options(suite=str(suite), out=out, sequences="0:60")).run()
        with pytest.raises(StoreConflict, match="context"):
            FeaturesJob(Options(suite=str(suite), out=out, sequences="0:50", context=20)).run()
        changed = tokens.copy()
        changed[3, 5] += 1
        other = suite_over(tmp_path / "other", changed)
        with pytest.raises(StoreConflict, match="sequences_data_sha256"):
            FeaturesJob(Options(suite=str(other), out=out, sequences="0:50")).run()
        assert parts_of(tmp_path / "s") == before
        FeaturesJob(Options(suite=str(suite), out=out, sequences="0:60", replace=True)).run()
        assert len(rows_of(tmp_path / "s")) == 60

    def test_a_pack_is_refused(self, suite: Path, tmp_path: Path, cli: Cli) -> None:
        cli("sequences", "pack", suite.parent / "data.npy", "-o", tmp_path / "pack")
        result = cli("features", "--suite", suite, "--data", tmp_path / "pack", "-o", tmp_path / "s", code=3)
        assert "is a pack" in result.stderr
        assert not (tmp_path / "s").exists()

    def test_part_of_the_training_data_is_refused(
        self, suite: Path, tokens: NDArray[np.uint32], tmp_path: Path, cli: Cli
    ) -> None:
        np.save(tmp_path / "first.npy", tokens[:500])
        cli("features", "--suite", suite, "--data", tmp_path / "first.npy", "-o", tmp_path / "s", code=3)


KILLED = """
import os, signal, sys
from memoserve.features.job import BYTES_A_WINDOW, FeaturesJob
from memoserve.features.options import Options
stage, at = sys.argv[3], int(sys.argv[4])
def progress(name, done, total):
    if name == stage and done >= at:
        os.kill(os.getpid(), signal.SIGKILL)
import memoserve.features.corpus as corpus
corpus._READ = 2000
FeaturesJob(Options(suite=sys.argv[1], out=sys.argv[2], part_size=300)).run(progress, save_every=0.0)
"""


@pytest.mark.parametrize(
    ("stage", "at"),
    [("reading windows", 1), ("near-duplicates", 3), ("counting in the training data", 1),
     ("counting in the training data", 700), ("writing", 1), ("writing", 3)],
)  # fmt: skip
def test_killed_and_gone_on(stage: str, at: int, store: Path, suite: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "s"
    died = subprocess.run(
        [sys.executable, "-c", KILLED, str(suite), str(out), stage, str(at)], check=False, timeout=120
    )
    assert died.returncode == -signal.SIGKILL
    saved = out / "features" / "suite=small" / "counting"
    first: list[int] = []
    if (stage, at) in (("counting in the training data", 700), ("writing", 1)):
        found = Counts.from_bytes(saved.read_bytes())
        assert found is not None
        assert found[1].done >= 500 if stage != "writing" else found[1].done == TRAINED

        def begins(name: str, done: int, total: int) -> None:
            if name.startswith("counting"):
                first.append(done)

        FeaturesJob(Options(suite=str(suite), out=str(out), part_size=300)).run(begins)
        assert all(done > found[1].done for done in first)
    else:
        cli("features", "--suite", suite, "--out", out, "--part-size", "300")
    assert parts_of(out) == parts_of(store)
    assert not saved.exists()
    assert verify(str(out)).damages == ()


def test_two_at_once_are_refused(suite: Path, tmp_path: Path, cli: Cli) -> None:
    store = Store.create(tmp_path / "s")
    with store.lock():
        result = cli("features", "--suite", suite, "-o", tmp_path / "s", code=4)
        assert "in use" in result.stderr
        table = tmp_path / "t.parquet"
        pq.write_table(pa.table({"sequence_id": [1], "x": [1.0]}), table)
        cli("features", "add", table, "--name", "x", "-o", tmp_path / "s", "--suite", "small", code=4)


class TestCommand:
    def test_it_says_what_it_does(self, suite: Path, tmp_path: Path, cli: Cli) -> None:
        out = tmp_path / "s"
        planned = cli("features", "--suite", suite, "-o", out, "--dry-run").stdout
        assert "1,040 sequences in 1 parts" in planned
        assert "90,000 tokens of training data" in planned
        assert not out.exists()
        done = cli("features", "--suite", suite, "-o", out).stdout
        assert re.search(r"features of 1,040 sequences in 1 parts \(\d+ distinct windows", done)
        assert "nothing to do" in cli("features", "--suite", suite, "-o", out).stdout
        assert "nothing to do" in cli("features", "--suite", suite, "-o", out, "--dry-run").stdout
        assert "all as they were written" in cli("verify", out).stdout
        help_ = cli("features", "--help").stdout
        assert "add" in help_
        assert "Add a table keyed by sequence id" in cli("features", "add", "--help").stdout

    def test_wrong_usage_and_input(self, suite: Path, tmp_path: Path, cli: Cli) -> None:
        cli("features", "--suite", "nowhere.toml", code=3)
        cli("features", "--suite", suite, "--sequences", "5:5", code=3)
        cli("features", "--suite", suite, "--sample", "0", code=3)
        cli("features", "--nonsense", code=2)
        (tmp_path / "file").write_text("")
        cli("features", "--suite", suite, "-o", tmp_path / "file", code=4)


class TestDamage:
    @pytest.fixture
    def copy(self, store: Path, tmp_path: Path) -> Path:
        for name, content in parts_of(store).items():
            (tmp_path / "s" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "s" / name).write_bytes(content)
        (tmp_path / "s" / "memoserve.json").write_bytes((store / "memoserve.json").read_bytes())
        return tmp_path / "s"

    def problems(self, store: Path) -> list[str]:
        return [damage.problem for damage in verify(str(store)).damages]

    def test_any_byte(self, copy: Path, suite: Path) -> None:
        part = copy / sorted(parts_of(copy))[2]
        content = bytearray(part.read_bytes())
        rng = np.random.default_rng(0)
        for place in rng.integers(0, len(content), 20).tolist():
            content[place] ^= 0x10
            part.write_bytes(content)
            assert len(self.problems(copy)) == 1
            content[place] ^= 0x10
        part.write_bytes(content)
        assert self.problems(copy) == []

    def test_it_is_mended(self, copy: Path, store: Path, suite: Path) -> None:
        part = copy / sorted(parts_of(copy))[2]
        part.write_bytes(part.read_bytes()[:-100])
        with pytest.raises(BadInput, match="`memoserve features` makes it again"):
            FeaturesJob(Options(suite=str(suite), out=str(copy), part_size=300)).run()
        repair(Store(copy).files, verify(str(copy)).damages)
        FeaturesJob(Options(suite=str(suite), out=str(copy), part_size=300)).run()
        assert parts_of(copy) == parts_of(store)

    def test_of_another_recipe(self, copy: Path) -> None:
        part = copy / sorted(parts_of(copy))[2]
        rewrite(part, said=lambda said: {**said, "fingerprint": {**said["fingerprint"], "recipe": 0}})
        assert "recipe" in self.problems(copy)[0]

    def test_in_another_place(self, copy: Path) -> None:
        part = copy / sorted(parts_of(copy))[2]
        part.rename(part.with_name("part-000000005000-000000005299.parquet"))
        assert "names a different part" in self.problems(copy)[0]

    def test_a_column_of_another_type(self, copy: Path) -> None:
        part = copy / sorted(parts_of(copy))[0]
        at = [feature.name for feature in FEATURES].index("zlib_bytes")
        rewrite(part, table=lambda t: t.set_column(at, "zlib_bytes", t["zlib_bytes"].cast(pa.float64())))
        assert "zlib_bytes is DOUBLE" in self.problems(copy)[0]

    def test_an_added_table(self, copy: Path, tmp_path: Path, cli: Cli) -> None:
        pq.write_table(pa.table({"sequence_id": [3, 1], "x": [0.5, 1.5]}), tmp_path / "t.parquet")
        cli("features", "add", tmp_path / "t.parquet", "--name", "x", "-o", copy)
        assert self.problems(copy) == []
        file = copy / "features/suite=small/added-x.parquet"
        content = bytearray(file.read_bytes())
        content[10] ^= 1
        file.write_bytes(content)
        assert self.problems(copy) == ["its data does not match its checksum"]


class TestAdded:
    @pytest.fixture
    def copy(self, suite: Path, tmp_path: Path) -> Path:
        FeaturesJob(Options(suite=str(suite), out=str(tmp_path / "s"), sequences="0:100")).run()
        return tmp_path / "s"

    def table(self, folder: Path, **columns: Any) -> Path:
        pq.write_table(pa.table(columns), folder / "table.parquet")
        return folder / "table.parquet"

    def test_it_joins(self, copy: Path, tmp_path: Path, cli: Cli) -> None:
        file = self.table(tmp_path, sequence_id=[5, 1, 200], anything=pa.array([0.5, float("nan"), 2.5]))
        assert (
            "3 rows of perplexity" in cli("features", "add", file, "--name", "perplexity", "-o", copy).stdout
        )
        file = self.table(tmp_path, Index=pa.array([1], pa.uint32()), one=[True], two=[7])
        cli("features", "add", file, "--name", "outside", "--id", "Index", "-o", copy)
        found = {row["sequence_id"]: row for row in rows_of(copy)}
        assert len(found) == 101
        assert (found[5]["perplexity"], found[1]["perplexity"], found[200]["perplexity"]) == (0.5, None, 2.5)
        assert (found[1]["outside_one"], found[1]["outside_two"], found[5]["outside_two"]) == (1, 7, None)
        assert found[200]["occurrences"] is None
        with memoserve.open(copy) as opened:
            assert len(opened.features()) == 101
            pq.write_table(pa.table({"sequence_id": [0], "v": [3]}), tmp_path / "more.parquet")
            cli("features", "add", tmp_path / "more.parquet", "--name", "more", "-o", copy)
            assert opened.features().df().more.tolist()[0] == 3

    def test_the_catalog_as_a_file_has_it(self, copy: Path, tmp_path: Path, cli: Cli) -> None:
        import duckdb

        file = self.table(tmp_path, sequence_id=[5], x=[1.5])
        cli("features", "add", file, "--name", "perplexity", "-o", copy)
        for options in ((), ("--embed",)):
            cli("catalog", copy, "-o", tmp_path / "c.duckdb", *options)
            with duckdb.connect(str(tmp_path / "c.duckdb"), read_only=True) as connection:
                sql = "SELECT count(*), sum(perplexity), sum(occurrences) FROM features"
                assert connection.execute(sql).fetchall() == rows_as_tuples(copy, sql)
            (tmp_path / "c.duckdb").unlink()

    @pytest.mark.parametrize(
        ("columns", "options", "message"),
        [
            ({"sequence_id": [1, 2, 1], "x": [1, 2, 3]}, (), "more than once"),
            ({"sequence_id": [1, None], "x": [1, 2]}, (), "1 of them NULL"),
            ({"sequence_id": [1.0], "x": [1]}, (), "whole numbers"),
            ({"sequence_id": [-1], "x": [1]}, (), "below 0"),
            ({"sequence_id": [1], "x": ["a"]}, (), "features are numbers"),
            ({"sequence_id": [1]}, (), "nothing to add"),
            ({"index": [1], "x": [1]}, (), "no column sequence_id"),
            ({"sequence_id": [1], "x": [1]}, ("--name", "zlib_bytes"), "a column of features already"),
            ({"sequence_id": [1], "x": [1]}, ("--name", "suite"), "a column of features already"),
            ({"sequence_id": [1], "x": [1]}, ("--name", "a b"), "small letters"),
            ({"sequence_id": [1], "x": [1]}, ("--name", "../a"), "small letters"),
            ({"sequence_id": [1], "b_c": [1], "d": [1]}, ("--name", 'a"; DROP'), "small letters"),
        ],
    )
    def test_what_is_refused(
        self, columns: dict[str, Any], options: tuple[str, ...], message: str, tmp_path: Path, cli: Cli
    ) -> None:
        Store.create(tmp_path / "s")
        file = self.table(tmp_path, **columns)
        name = options or ("--name", "p")
        result = cli("features", "add", file, *name, "-o", tmp_path / "s", "--suite", "small", code=3)
        assert message in result.stderr
        assert not (tmp_path / "s" / "features").exists()

    def test_a_name_is_taken_once(self, copy: Path, tmp_path: Path, cli: Cli) -> None:
        file = self.table(tmp_path, sequence_id=[5], c=[1.5], d=[2])
        cli("features", "add", file, "--name", "a_b", "-o", copy)
        assert "there already" in cli("features", "add", file, "--name", "a_b", "-o", copy, code=4).stderr
        other = tmp_path / "other.parquet"
        pq.write_table(pa.table({"sequence_id": [1], "b_c": [1], "e": [1]}), other)
        assert "has a_b_c" in cli("features", "add", other, "--name", "a", "-o", copy, code=4).stderr
        pq.write_table(pa.table({"sequence_id": [1], "c": [9], "d": [1]}), other)
        cli("features", "add", other, "--name", "a_b", "-o", copy, "--replace")
        assert [row["a_b_c"] for row in rows_of(copy) if row["a_b_c"] is not None] == [9]

    def test_no_parquet(self, copy: Path, tmp_path: Path, cli: Cli) -> None:
        (tmp_path / "t.parquet").write_text("no")
        cli("features", "add", tmp_path / "t.parquet", "--name", "x", "-o", copy, code=3)
        cli("features", "add", tmp_path / "missing.parquet", "--name", "x", "-o", copy, code=3)
        cli("features", "add", tmp_path / "t.parquet", "--name", "x", "-o", tmp_path / "none", code=4)


def rows_as_tuples(store: Path, sql: str) -> list[tuple[Any, ...]]:
    with Catalog.open(store) as catalog:
        return catalog.connection.execute(sql).fetchall()


class TestFreePredictors:
    @pytest.mark.parametrize(("seed", "mode", "loglik"), [(12, "score", True), (33, "extract", False)])
    def test_against_a_plain_count(self, seed: int, mode: str, loglik: bool, tmp_path: Path) -> None:
        world = random_world(tmp_path, seed, mode, loglik=loglik)
        read = Read(world)
        features = self.add(world, np.random.default_rng(seed), tmp_path / "t.parquet")
        for target in read.targets():
            runs = {run: self.signal(read, run, target) for run in read.smaller(target)}
            for precision in (0.8, 0.3):
                found = ask(world, "free_predictors", target=target, precision=str(precision))
                for unit in units(world):
                    rows = {row["predictor"]: row for row in found if row["unit"] == unit}
                    assert rows.keys() == features.keys() | runs.keys()
                    for name, values in (features | runs).items():
                        signs = (1, -1) if name in features else (1,)
                        curves = [self.curve(read, target, unit, values, sign, precision) for sign in signs]
                        same(rows[name], max(curves, key=lambda one: one["average_precision"] or 0.0))

    def add(self, world: World, rng: np.random.Generator, file: Path) -> dict[str, dict[int, float]]:
        """Two features of most sequences, one with many equal values: by id, what was added."""
        ids = np.array(sorted(world.windows))
        wide = rng.integers(0, 6, len(ids)) - 2
        wide[[world.windows[i] % 3 == 0 for i in ids.tolist()]] = 5
        found: dict[str, dict[int, float]] = {}
        for name, values in (("wide", wide), ("fine", rng.random(len(ids)).round(2))):
            known = rng.random(len(ids)) < 0.8
            found[name] = dict(zip(ids[known].tolist(), values[known].tolist(), strict=True))
            pq.write_table(pa.table({"sequence_id": [*found[name]], "x": [*found[name].values()]}), file)
            add_table(Store.open(world.path), "toy", file, name)
        return found

    def signal(self, read: Read, run: str, target: str) -> dict[int, float]:
        """A run's finest signal, of what it has seen."""
        scores = read.world.scores[run]
        seen = min(read.seen(run), read.seen(target))
        by_matches = {i: s[0] for i, s in scores.items() if s[0] is not None}
        by_prefix = {i: s[1] for i, s in scores.items() if s[1] is not None}
        values = read.world.log_likelihoods.get(run) or by_matches or by_prefix
        return {i: value for i, value in values.items() if i < seen}

    def curve(
        self, read: Read, target: str, unit: str, values: dict[int, float], sign: int, precision: float
    ) -> dict[str, Any]:
        truth = read.evaluated(target, unit)
        ranks: dict[int, float] = {}
        for i, value in values.items():
            if i in read.world.scores[target] and i < read.seen(target):
                key = i if unit == "sequences" else read.number(i)
                ranks[key] = max(ranks.get(key, -math.inf), sign * value)
        memorized = {key for key in truth if truth[key]}
        area, before = 0.0, 0
        best: tuple[int, int, float | None] = (0, 0, None)
        for tau in sorted(set(ranks.values()), reverse=True):
            flagged = {key for key in ranks if ranks[key] >= tau}
            hits = flagged & memorized
            area += (len(hits) - before) * len(hits) / len(flagged)
            before = len(hits)
            if len(hits) / len(flagged) >= precision and len(hits) > best[0]:
                best = (len(hits), len(flagged), sign * tau)
        area += (len(memorized) - before) * len(memorized) / len(truth)
        return {
            "average_precision": area / len(memorized) if memorized else None,
            "recall": best[0] / len(memorized) if memorized else None,
            "hits": best[0], "flagged": best[1], "tau": best[2],
            "memorized": len(memorized), "evaluated": len(truth),
        }  # fmt: skip


class TestView:
    def test_without_features_it_is_empty(self, tmp_path: Path) -> None:
        Store.create(tmp_path / "s")
        assert rows_of(tmp_path / "s") == []
        assert rows_of(tmp_path / "s", "SELECT * FROM occurrences_before('x', 5)") == []

    def test_names_in_paths_mislead_nobody(self, suite: Path, tmp_path: Path) -> None:
        out = tmp_path / "suite=other" / "step=3" / "it's [1]"
        FeaturesJob(Options(suite=str(suite), out=str(out), sequences="0:10")).run()
        assert [row["suite"] for row in rows_of(out)] == ["small"] * 10

    def test_every_column_is_documented(self) -> None:
        page = (Path(__file__).parents[2] / "docs" / "features.md").read_text()
        documented = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
        assert documented == [feature.name for feature in FEATURES]
        for feature in FEATURES:
            assert feature.meaning
        assert ADDED.match("features/suite=a/added-b.parquet")
