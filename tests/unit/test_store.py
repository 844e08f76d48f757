"""The score store, through what a run does with it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import random_stores
from command_line import Cli
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_stores import toy_suite
from store_parts import FINGERPRINT, matches

from memoserve.checks import Check
from memoserve.domain import Checkpoint
from memoserve.errors import BadInput, StorageFailed, StoreConflict
from memoserve.store import Store, checksum, missing_ranges
from memoserve.store.checksum import KEY
from memoserve.store.parts import part_metadata, part_name
from memoserve.store.verify import Damage, mend, verify


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    suite = toy_suite(tmp_path / "suite")
    return suite.checkpoint(suite.models[0], 7)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "store")
    store.claim(toy_suite(tmp_path / "suite"), FINGERPRINT)
    return store


def write(store: Store, checkpoint: Checkpoint, first: int, stop: int) -> Path:
    part = store.write_scores(
        checkpoint, first, stop, np.arange(first, stop), matches(stop - first), "weights-1"
    )
    return Path(part.path)


class TestDirectory:
    def test_create_then_open(self, tmp_path: Path) -> None:
        Store.create(tmp_path / "new" / "store")
        assert Store.open(tmp_path / "new" / "store").suites() == []
        Store.create(tmp_path / "new" / "store")

    @pytest.mark.parametrize(
        ("make", "says"),
        [
            (lambda p: None, "there is no store"),
            (lambda p: p.write_text(""), "is a file"),
            (lambda p: p.mkdir(), "It is empty"),
            (lambda p: (p.mkdir(), (p / "thesis.tex").write_text("")), "It holds thesis.tex"),
            (lambda p: (p.mkdir(), (p / "memoserve.json").write_text("{")), "damaged"),
            (lambda p: (p.mkdir(), (p / "memoserve.json").write_text('{"format": 9}')), "format 9"),
        ],
    )
    def test_open_says_what_it_found(self, tmp_path: Path, make: Callable[[Path], object], says: str) -> None:
        make(tmp_path / "x")
        with pytest.raises(StoreConflict, match=says):
            Store.open(tmp_path / "x")

    def test_create_leaves_other_directories_alone(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("")
        with pytest.raises(StoreConflict, match=r"thesis\.tex"):
            Store.create(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


class TestFingerprint:
    def test_every_difference_is_listed(self, store: Store, tmp_path: Path) -> None:
        new = {**FINGERPRINT, "mode": "extract", "context": 64}
        del new["eos_token_id"]
        with pytest.raises(StoreConflict) as error:
            store.claim(toy_suite(tmp_path / "suite"), new)
        said = str(error.value)
        assert "mode: score vs extract" in said
        assert "context: (not there) vs 64" in said
        assert "eos_token_id: None vs (not there)" in said
        assert "dtype" not in said
        store.claim(toy_suite(tmp_path / "suite"), FINGERPRINT)

    def test_another_engine_may_take_over_what_has_no_score(
        self, store: Store, checkpoint: Checkpoint, tmp_path: Path
    ) -> None:
        """As after a run in which every checkpoint failed: it numbered windows, and no more."""
        suite = toy_suite(tmp_path / "suite")
        store.write_sequences("toy", 0, 3, np.arange(3), np.arange(3))
        store.index_repeats("toy")
        other = {**FINGERPRINT, "mode": "extract", "engine": "another", "context": 48}
        store.refuse_unlike("toy", other)
        with pytest.raises(StoreConflict, match="suite: toy vs else"):
            store.claim(suite, {**other, "suite": "else"})
        assert len(store.sequence_parts("toy")) == 1
        store.claim(suite, other)
        assert store.fingerprint("toy") == other
        assert store.missing_sequences("toy", [(0, 3)], 10) == [(0, 3)]
        store.write_sequences("toy", 0, 3, np.arange(3), np.arange(3))
        write(store, checkpoint, 0, 10)
        assert verify(store.path).damages == ()
        with pytest.raises(StoreConflict, match="mode: extract vs score"):
            store.claim(suite, FINGERPRINT)
        assert store.fingerprint("toy") == other

    def test_a_suite_may_grow_but_not_change_what_is_evaluated(
        self, store: Store, checkpoint: Checkpoint, tmp_path: Path
    ) -> None:
        write(store, checkpoint, 0, 10)
        store.claim(toy_suite(tmp_path / "more", steps=(0, 3, 5, 7)), FINGERPRINT)
        with pytest.raises(StoreConflict, match="sequences_seen: 350 vs 280"):
            store.claim(toy_suite(tmp_path / "other", batch=40), FINGERPRINT)

    def test_a_part_of_another_run_is_refused(
        self, store: Store, checkpoint: Checkpoint, tmp_path: Path
    ) -> None:
        other = Store.create(tmp_path / "other")
        other.claim(toy_suite(tmp_path / "suite"), {**FINGERPRINT, "dtype": "bfloat16"})
        foreign = write(other, checkpoint, 10, 20)
        path = write(store, checkpoint, 0, 10)
        foreign.rename(path.parent / foreign.name)
        assert len(store.read_scores("toy", "s", 7, 0, 10).sequence_id) == 10
        with pytest.raises(StoreConflict, match="dtype: float32 vs bfloat16"):
            store.read_scores("toy", "s", 7, 0, 20)

    def test_scores_need_a_claim(self, tmp_path: Path, checkpoint: Checkpoint) -> None:
        with pytest.raises(StoreConflict, match="holds no suite 'toy'"):
            write(Store.create(tmp_path / "new"), checkpoint, 0, 10)


class TestParts:
    @pytest.mark.parametrize("mask", [True, False])
    @pytest.mark.parametrize("likelihood", [True, False])
    def test_what_is_written_is_read(
        self, store: Store, checkpoint: Checkpoint, mask: bool, likelihood: bool
    ) -> None:
        ids = np.array([3, 8, 9, 40, 99])
        given_ = matches(5, mask=mask, likelihood=likelihood)
        store.write_scores(checkpoint, 0, 100, ids, given_, "weights-1")
        late = matches(2, seed=1, mask=mask, likelihood=likelihood)
        store.write_scores(checkpoint, 100, 200, np.array([100, 150]), late, "weights-1")
        read = store.read_scores("toy", "s", 7, 8, 101)
        assert read.sequence_id.tolist() == [8, 9, 40, 99, 100]
        assert read.matched_prefix is not None
        assert read.matched_prefix.tolist() == [*given_.matched_prefix[1:], late.matched_prefix[0]]
        if mask:
            masks = [*given_.match_mask[1:], late.match_mask[0]]
            assert read.match_mask is not None
            assert read.match_mask.tolist() == masks
            assert read.matches is not None
            assert read.matches.tolist() == [int(m).bit_count() for m in masks]
        else:
            assert read.match_mask is None
            assert read.matches is None
        assert (read.continuation_ll is not None) == likelihood
        assert store.weights_of(checkpoint) == "weights-1"
        assert [(p.first, p.last) for p in store.parts("toy", "s", 7)] == [(0, 99), (100, 199)]

    def test_windows(self, store: Store) -> None:
        store.write_sequences("toy", 0, 10, np.array([1, 5]), np.array([-(2**63), 2**63 - 1]))
        ids, windows = store.read_sequences("toy", 0, 5)
        assert (ids.tolist(), windows.tolist()) == ([1], [-(2**63)])
        assert store.missing_sequences("toy", [(0, 12)], 6) == [(10, 12)]

    @pytest.mark.parametrize("span", [(0, 10), (5, 6), (9, 30), (0, 40)])
    def test_no_sequence_in_two_parts(
        self, store: Store, checkpoint: Checkpoint, span: tuple[int, int]
    ) -> None:
        path = write(store, checkpoint, 0, 10)
        before = path.read_bytes()
        with pytest.raises(StoreConflict, match=r"already has sequences 0\.\.9"):
            write(store, checkpoint, *span)
        assert path.read_bytes() == before
        write(store, checkpoint, 10, 20)

    @pytest.mark.parametrize("ids", [[1, 1], [2, 1], [1, 10], [-1, 1]])
    def test_ids_must_ascend_inside_the_part(
        self, store: Store, checkpoint: Checkpoint, ids: list[int]
    ) -> None:
        with pytest.raises(ValueError, match="ascend"):
            store.write_scores(checkpoint, 0, 10, np.array(ids), matches(2), "w")

    def test_contradicting_arrays_are_refused(self, store: Store, checkpoint: Checkpoint) -> None:
        wrong = matches(4)
        wrong.matched_prefix = np.full(4, 32, np.uint8)
        wrong.match_mask = np.array([1, 2, 3, 0xFFFFFFFF], np.uint32)
        with pytest.raises(ValueError, match="disagree"):
            store.write_scores(checkpoint, 0, 4, np.arange(4), wrong, "w")
        assert store.parts("toy", "s", 7) == []

    @pytest.mark.parametrize("damage", ["truncate", "empty", "garbage", "flip"])
    def test_a_damaged_part_is_named(self, store: Store, checkpoint: Checkpoint, damage: str) -> None:
        path = write(store, checkpoint, 0, 300)
        content = path.read_bytes()
        path.write_bytes(
            {
                "truncate": content[:-20],
                "empty": b"",
                "garbage": b"hello" * 30,
                "flip": content[:4] + b"\xff" * 60 + content[64:],
            }[damage]
        )
        with pytest.raises(
            BadInput, match=r"part-000000000000-000000000299\.parquet is damaged.*\n.*verify --repair"
        ):
            store.read_scores("toy", "s", 7, 0, 300)

    def test_parts_are_small(self, store: Store, checkpoint: Checkpoint) -> None:
        n = 300_000
        rng = np.random.default_rng(0)
        prefix = np.minimum(31, rng.geometric(0.5, n) - 1).astype(np.uint8)
        only = SimpleNamespace(matched_prefix=prefix, match_mask=None, continuation_ll=None)
        part = store.write_scores(checkpoint, 0, n, np.arange(n), only, "w")
        group = pq.read_metadata(part.path).row_group(0)
        columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
        assert "DELTA_BINARY_PACKED" in columns["sequence_id"].encodings
        assert columns["sequence_id"].total_compressed_size < 0.02 * n
        # The entropy of this distribution is 2 bits a row.
        assert columns["matched_prefix"].total_compressed_size < 0.4 * n
        assert columns["match_mask"].total_compressed_size < 1000
        assert columns["sequence_id"].statistics.max == n - 1
        assert {c.compression for n, c in columns.items() if n != "match_mask"} == {"ZSTD"}
        assert columns["match_mask"].compression == "BROTLI"


ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=5)


class TestMissing:
    @given(ranges, ranges, st.integers(1, 25))
    def test_against_sets(
        self, wanted: list[tuple[int, int]], covered: list[tuple[int, int]], size: int
    ) -> None:
        missing = missing_ranges(wanted, covered, size)
        ids = [i for first, stop in missing for i in range(first, stop)]
        assert ids == sorted(
            {i for a, b in wanted for i in range(a, b)} - {i for a, b in covered for i in range(a, b)}
        )
        for first, stop in missing:
            assert first < stop
            assert first // size == (stop - 1) // size

    def test_the_same_grid_goes_on_with_whole_parts(self, store: Store, checkpoint: Checkpoint) -> None:
        first = store.missing("toy", "s", 7, [(0, 250)], 100)
        assert first == [(0, 100), (100, 200), (200, 250)]
        write(store, checkpoint, *first[1])
        assert store.missing("toy", "s", 7, [(0, 250)], 100) == [(0, 100), (200, 250)]
        assert store.missing("toy", "s", 7, [(0, 350)], 100) == [(0, 100), (200, 300), (300, 350)]
        with pytest.raises(BadInput, match="part size"):
            store.missing("toy", "s", 7, [(0, 250)], 0)


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments], stdout=subprocess.PIPE, text=True,
        cwd=Path(random_stores.__file__).parent,
    )  # fmt: skip


class TestLockAndCrashes:
    def test_one_run_at_a_time_and_kill_frees_it(self, store: Store) -> None:
        holder = start(
            """
            import sys, time
            from memoserve.store import Store
            with Store.open(sys.argv[1]).lock():
                print("held", flush=True)
                time.sleep(60)
            """,
            store.path,
        )
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(StoreConflict, match=f"process {holder.pid}"), store.lock():
                pass
        finally:
            holder.kill()
            holder.wait()
        with store.lock():
            pass

    def test_killed_writers_leave_whole_parts_or_none(self, store: Store) -> None:
        writer = start(
            """
            import sys
            from pathlib import Path
            import numpy as np
            from store_parts import matches
            from random_stores import toy_suite
            from memoserve.store import Store
            store = Store.open(sys.argv[1])
            suite = toy_suite(Path(sys.argv[2]))
            some = matches(2000)
            print("go", flush=True)
            for i in range(100000):
                ids = np.arange(i * 2000, (i + 1) * 2000)
                store.write_scores(suite.checkpoint(suite.models[0], 7), ids[0], ids[-1] + 1, ids, some, "w")
            """,
            store.path,
            str(Path(store.path).parent / "suite"),
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "go\n"
        while not store.parts("toy", "s", 7):
            time.sleep(0.01)
        time.sleep(0.3)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        parts = store.parts("toy", "s", 7)
        assert parts
        for part in parts:
            assert len(store.read_scores("toy", "s", 7, part.first, part.stop).sequence_id) == 2000

    def test_leftovers_go_under_the_lock(self, store: Store, checkpoint: Checkpoint) -> None:
        path = write(store, checkpoint, 0, 10)
        left = path.parent / ".part-000000000010-000000000019.parquet.999.tmp"
        left.write_bytes(b"half")
        assert len(store.parts("toy", "s", 7)) == 1
        with store.lock():
            assert not left.exists()
        assert path.exists()

    def test_a_full_disk_keeps_what_is_whole(self, store: Store, checkpoint: Checkpoint) -> None:
        write(store, checkpoint, 0, 10)
        # A limit on file size stands in for the full disk: the write fails half way.
        limited = start(
            """
            import resource, sys
            from pathlib import Path
            import numpy as np
            from store_parts import matches
            from random_stores import toy_suite
            from memoserve.errors import StorageFailed
            from memoserve.store import Store
            suite = toy_suite(Path(sys.argv[2]))
            checkpoint = suite.checkpoint(suite.models[0], 7)
            store = Store.open(sys.argv[1])
            some = matches(50_000)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
            try:
                store.write_scores(checkpoint, 10, 50_010, np.arange(10, 50_010), some, '')
            except StorageFailed as error:
                print(error)
            """,
            store.path,
            str(Path(store.path).parent / "suite"),
        )
        said, _ = limited.communicate(timeout=60)
        assert "part-000000000010-000000050009.parquet could not be written" in said
        assert "whole and kept" in said
        assert [str(p) for p in Path(store.scores_dir("toy", "s", 7)).iterdir()] == [
            store.parts("toy", "s", 7)[0].path
        ]

    @pytest.mark.parametrize(
        ("number", "advice"),
        [(errno.ENOSPC, "free some space"), (errno.EACCES, "permission"), (errno.EIO, "check the disk")],
    )
    def test_the_error_says_what_to_do(
        self, store: Store, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
    ) -> None:
        def fail(_descriptor: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(StorageFailed, match=advice):
            write(store, checkpoint, 0, 10)
        assert list(Path(store.scores_dir("toy", "s", 7)).iterdir()) == []


class TestVerify:
    """Whatever is done to a file of a store is found, and named."""

    @pytest.fixture
    def filled(self, store: Store, checkpoint: Checkpoint) -> Store:
        for first in range(0, 400, 100):
            write(store, checkpoint, first, first + 100)
        store.write_sequences("toy", 0, 400, np.arange(400), np.arange(400))
        return store

    def found(self, store: Store) -> dict[str, str]:
        return {damage.name: damage.problem for damage in verify(store.path).damages}

    def test_a_store_as_it_was_written(self, filled: Store, cli: Cli) -> None:
        result = verify(filled.path)
        assert (result.files, result.damages) == (7, ())  # four parts, one of windows, two that describe
        assert "7 files" in cli("verify", filled.path).stdout

    @given(st.data())
    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_any_change_of_any_file_is_found(self, filled: Store, data: st.DataObject) -> None:
        names = [n for n in filled.files.below("") if n != "memoserve.json"]
        path = Path(filled.path) / data.draw(st.sampled_from(names))
        before = path.read_bytes()
        at = data.draw(st.integers(0, len(before) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "cut head", "insert", "zero", "repeat"]))
        after = {
            "flip": before[:at] + bytes([before[at] ^ data.draw(st.integers(1, 255))]) + before[at + 1 :],
            "cut": before[:at],
            "cut head": before[at + 1 :],
            "insert": before[:at] + b"\0" + before[at:],
            "zero": before[:at] + bytes(len(before) - at),
            "repeat": before + before[at:],
        }[kind]
        path.write_bytes(after)
        try:
            problems = self.found(filled)
        finally:
            path.write_bytes(before)
        if path.name == "fingerprint.json" and after.strip() == before.strip():
            return  # white space around JSON says nothing
        if path.name == "fingerprint.json" and kind == "flip" and not problems:
            # One white space for another says nothing either.
            assert json.loads(after) == json.loads(before)
            return
        assert list(problems) == [path.relative_to(filled.path).as_posix()], (kind, at)

    def test_every_byte_of_a_part(self, filled: Store) -> None:
        """The one above draws; here each byte of one part is changed, one bit at a time in turn."""
        part = filled.parts("toy", "s", 7)[0]
        content = Path(part.path).read_bytes()
        checksum.check(content)
        for at in range(len(content)):
            damaged = bytearray(content)
            damaged[at] ^= 1 << at % 8
            with pytest.raises(ValueError, match=r"\w"):
                checksum.check(bytes(damaged))

    def test_what_a_checksum_cannot_know(self, filled: Store, checkpoint: Checkpoint, tmp_path: Path) -> None:
        parts = [Path(part.path) for part in filled.parts("toy", "s", 7)]
        folder = parts[0].parent
        other = Store.create(tmp_path / "other")
        other.claim(toy_suite(tmp_path / "suite"), {**FINGERPRINT, "dtype": "bfloat16"})
        shutil.copy(write(other, checkpoint, 400, 500), folder)  # another run's
        shutil.copy(parts[0], folder / part_name(500, 600))  # under another name
        (folder / "part-old.parquet").write_bytes(parts[1].read_bytes())  # queries would read it
        same = Store.create(tmp_path / "same")
        same.claim(toy_suite(tmp_path / "suite"), FINGERPRINT)
        shutil.copy(write(same, checkpoint, 350, 450), folder)  # overlaps
        (folder / ".part-1.parquet.99999999.tmp").write_bytes(b"half")
        moved = filled.scores_dir("toy", "s", 3)
        Path(moved).mkdir()
        shutil.copy(parts[0], moved)  # of another checkpoint
        found = {name.rpartition("/")[2]: problem for name, problem in self.found(filled).items()}
        assert found.pop(part_name(400, 500)).startswith(
            "made by another run (store vs part): dtype: float32"
        )
        assert found.pop(part_name(500, 600)).startswith(
            "its metadata names a different part: scores/suite=toy/model=s/step=7/"
        )
        assert found.pop(part_name(350, 450)) == f"it overlaps with {part_name(300, 400)}"
        assert found.pop("part-old.parquet") == "not the name of a part, but queries would read it"
        assert found.pop(".part-1.parquet.99999999.tmp").startswith("left behind")
        assert found.pop(part_name(0, 100)).startswith(
            "its metadata names a different part: scores/suite=toy/model=s/step=7/"
        )
        assert found == {}
        # Nor does reading trust a name: the rows of a copy would be there twice.
        with pytest.raises(BadInput, match="its metadata names a different part"):
            filled.read_scores("toy", "s", 7, 500, 600)

    def test_rows_that_do_not_fit(self, filled: Store, checkpoint: Checkpoint) -> None:
        """Parts with a right checksum and wrong rows, as a defect of a writer would make them."""
        part = filled.parts("toy", "s", 7)[0]
        table = pq.read_table(part.path)
        said = part_metadata(filled.files, part)

        def put(table: pa.Table, said: dict[str, object]) -> None:
            filled.files.write(part.name, self.sealed(table, json.dumps(said)))

        ids = table.column("sequence_id").to_numpy()
        for changed, says in (
            (table.slice(1), "it has 99 rows and should have 100"),
            (table.set_column(0, "sequence_id", [ids[::-1].copy()]), "don't ascend"),
            (table.set_column(0, "sequence_id", [np.where(ids == 5, 6, ids)]), "don't ascend"),
            (table.set_column(0, "sequence_id", [ids + 1]), "it has sequences 1..100"),
            (table.drop_columns("sequence_id"), "it lacks the column sequence_id"),
            (table.drop_columns(["matches", "matched_prefix"]), "nothing says what is memorized"),
            (
                table.set_column(0, "sequence_id", [pa.array(ids, pa.float32())]),
                "its column sequence_id is FLOAT and should be INT64",
            ),
            (
                table.set_column(2, "matched_prefix", [pa.array([33] + [0] * 99, pa.uint8())]),
                "its column matched_prefix has 33, above 32",
            ),
        ):
            put(changed, said)
            assert says in self.found(filled)[part.name]
        put(table, said)
        assert self.found(filled) == {}
        put(table, {**said, "weights": "others"})
        assert "made with weights" in self.found(filled)[filled.parts("toy", "s", 7)[1].name]

    def sealed(self, table: pa.Table, said: str, **options: object) -> bytes:
        """A part whose checksum is right, as a stranger can make one."""
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, table.schema, store_schema=False, **options) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({"memoserve": said, KEY: checksum.PLACEHOLDER})
        return checksum.seal(sink.getvalue().to_pybytes())

    @pytest.mark.parametrize(
        ("said", "says"),
        [
            ("[" * 100_000, "its metadata is nested too deeply"),
            ('{"a":' * 100_000 + "1" + "}" * 100_000, "its metadata is nested too deeply"),
            ('{"fingerprint": [1, 2]}', "its metadata is not an object"),
            ("[]", "its metadata is not an object"),
            ("\x00", "Expecting value"),
            ('{"name": 5, "rows": "x", "weights": {}}', "its metadata names a different part: 5"),
        ],
    )
    def test_a_footer_of_a_stranger(self, filled: Store, cli: Cli, said: str, says: str) -> None:
        part = filled.parts("toy", "s", 7)[0]
        filled.files.write(part.name, self.sealed(pq.read_table(part.path), said))
        assert says in self.found(filled)[part.name]
        assert part.name in cli("verify", filled.path, code=3).stdout
        with pytest.raises(BadInput, match="is damaged or not a part"):
            filled.read_scores("toy", "s", 7, 0, 100)
        assert part.name in {damage.name for damage in mend(filled, "toy", [("s", 7)])}

    def test_statistics_of_a_stranger(self, filled: Store) -> None:
        part = filled.parts("toy", "s", 7)[0]
        table, said = pq.read_table(part.path), json.dumps(part_metadata(filled.files, part))
        filled.files.write(part.name, self.sealed(table, said, write_statistics=False))
        assert self.found(filled) == {}
        instants = table.column("sequence_id").cast(pa.timestamp("us"))
        filled.files.write(part.name, self.sealed(table.set_column(0, "sequence_id", instants), said))
        assert part.name in self.found(filled)

    def test_parts_from_before_there_were_checksums(
        self, filled: Store, checkpoint: Checkpoint, cli: Cli
    ) -> None:
        """They may be all that somebody has: named as what they are, and moved only by who says so."""
        for part in (*filled.parts("toy", "s", 7), *filled.sequence_parts("toy")):
            said = {k: v for k, v in part_metadata(filled.files, part).items() if k != "name"}
            table, sink = pq.read_table(part.path), pa.BufferOutputStream()
            with pq.ParquetWriter(sink, table.schema, store_schema=False) as writer:
                writer.write_table(table)
                writer.add_key_value_metadata({"memoserve": json.dumps(said)})
            filled.files.write(part.name, sink.getvalue().to_pybytes())
        name = "suites/suite=toy/fingerprint.json"
        filled.files.write(name, json.dumps(FINGERPRINT).encode())
        before = {name: filled.files.read(name) for name in filled.files.below("")}
        found = self.found(filled)
        assert found.pop(name) == "it carries no checksum: damaged, or written by a version without checksums"
        assert set(found.values()) == {checksum.FROM_BEFORE}
        assert len(found) == 5
        with pytest.raises(
            StoreConflict, match=r"(?s)5 files in .* --repair` moves them .* makes them again"
        ):
            mend(filled, "toy", [("s", 7)])
        assert {name: filled.files.read(name) for name in filled.files.below("")} == before
        with pytest.raises(StoreConflict, match="it carries no checksum: damaged, or written by"):
            filled.read_scores("toy", "s", 7, 0, 100)
        assert checksum.FROM_BEFORE in cli("verify", filled.path, code=3).stdout
        cli("verify", filled.path, "--repair")
        assert mend(filled, "toy", [("s", 7)]) == ()
        assert filled.missing("toy", "s", 7, [(0, 400)], 100) == [
            (0, 100),
            (100, 200),
            (200, 300),
            (300, 400),
        ]
        assert filled.files.read(f"damaged/{name}") == before[name]

    def test_repair(self, filled: Store, checkpoint: Checkpoint, cli: Cli) -> None:
        parts = filled.parts("toy", "s", 7)
        Path(parts[1].path).write_bytes(b"")
        content = bytearray(Path(parts[2].path).read_bytes())
        content[20] ^= 1
        Path(parts[2].path).write_bytes(content)
        (Path(filled.path) / "suites/suite=toy/fingerprint.json").write_text("{}")
        (Path(filled.path) / "memoserve.json").write_text("{")
        said = cli("verify", filled.path, code=3)
        assert {line.split(": ")[0] for line in said.stdout.splitlines()} == {
            parts[1].name, parts[2].name, "suites/suite=toy/fingerprint.json", "memoserve.json"
        }  # fmt: skip
        assert "4 damaged files" in said.stderr
        with filled.lock():
            assert "in use" in cli("verify", filled.path, "--repair", code=4).stderr
        assert "4 damaged: moved into" in cli("verify", filled.path, "--repair").stdout
        assert self.found(filled) == {}
        assert Path(filled.path, "damaged", parts[2].name).read_bytes() == content
        again = Store.open(filled.path)
        assert again.fingerprint("toy") == FINGERPRINT
        assert again.missing("toy", "s", 7, [(0, 400)], 100) == [(100, 200), (200, 300)]

    def test_a_fingerprint_that_is_gone_is_that_of_the_parts(self, filled: Store, tmp_path: Path) -> None:
        """Else a run with other settings would take the store over, and every part would be foreign."""
        Path(filled.path, "suites/suite=toy/fingerprint.json").unlink()
        assert mend(filled, "toy", []) == (Damage("suites/suite=toy/fingerprint.json", "it is missing"),)
        with pytest.raises(StoreConflict, match="dtype: float32 vs bfloat16"):
            filled.claim(toy_suite(tmp_path / "suite"), {**FINGERPRINT, "dtype": "bfloat16"})

    def test_mend_looks_at_footers_of_what_is_large(
        self, filled: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = (Path(part.path) for part in filled.parts("toy", "s", 7)[:2])
        content = bytearray(first.read_bytes())
        content[10] ^= 1
        first.write_bytes(content)
        second.write_bytes(second.read_bytes()[:-30])
        monkeypatch.setattr("memoserve.store.verify.WHOLE_UP_TO", 0)
        assert [d.name.rpartition("/")[2] for d in mend(filled, "toy", [("s", 7)])] == [second.name]
        monkeypatch.undo()
        assert [d.name.rpartition("/")[2] for d in mend(filled, "toy", [("s", 7)])] == [first.name]
        assert mend(filled, "toy", [("s", 7)]) == ()

    def test_what_is_no_store(self, tmp_path: Path, cli: Cli) -> None:
        assert "there is no store" in cli("verify", tmp_path / "none", code=4).stderr
        assert "has no memoserve.json" in cli("verify", tmp_path, code=4).stderr


class TestChecks:
    def some(self) -> list[Check]:
        return [
            Check("weights complete", "s@7", "passed", "12 of 12 tensors", 12.0, "s", 7),
            Check("weights complete", "s@3", "failed", "ln lacks 'bias' = NULL; \u00e4\u221e", None, "s", 3),
            Check("token ids", "data.npy", "not checked"),
        ]

    def test_the_newest_of_each_is_read(self, store: Store) -> None:
        assert store.read_checks("toy") == []
        before = datetime.now(UTC)
        store.write_checks("toy", self.some())
        assert [check for check, _ in store.read_checks("toy")] == self.some()
        again = Check("weights complete", "s@3", "passed", "", 1.5, "s", 3)
        store.write_checks("toy", [again])
        store.write_checks("toy", [])
        store.write_checks("other", [again])
        read = store.read_checks("toy")
        assert {check for check, _ in read} == {self.some()[0], again, self.some()[2]}
        assert all(before <= at <= datetime.now(UTC) for _, at in read)
        assert len(list((Path(store.path) / "checks" / "suite=toy").iterdir())) == 2
        assert store.suites() == ["toy"]

    @pytest.mark.parametrize("place", ["scores", "footer", "name", "rows"])
    def test_damaged_ones_are_found_and_moved(self, store: Store, cli: Cli, place: str) -> None:
        store.write_checks("toy", self.some())
        (file,) = (Path(store.path) / "checks" / "suite=toy").iterdir()
        assert verify(store.path).damages == ()
        content = bytearray(file.read_bytes())
        if place == "name":
            file.rename(file.with_name("checks-another.parquet"))
        elif place == "rows":
            table = pq.read_table(file)
            sink = pa.BufferOutputStream()
            said = json.dumps({"name": f"checks/suite=toy/{file.name}", "rows": 4})
            with pq.ParquetWriter(sink, table.schema) as writer:
                writer.write_table(table)
                writer.add_key_value_metadata({"memoserve": said, KEY: checksum.PLACEHOLDER})
            file.write_bytes(checksum.seal(sink.getvalue().to_pybytes()))
        else:
            content[10 if place == "scores" else -20] ^= 1
            file.write_bytes(content)
        with pytest.raises(BadInput, match="damaged"):
            store.read_checks("toy")
        (damage,) = verify(store.path).damages
        assert damage.name.startswith("checks/suite=toy/")
        cli("verify", store.path, code=3)
        cli("verify", store.path, "--repair")
        assert verify(store.path).damages == ()
        assert store.read_checks("toy") == []
        assert len(list((Path(store.path) / "damaged").rglob("checks-*.parquet"))) == 1


class TestWeightsNotes:
    def test_they_stay_when_the_suite_grows(
        self, store: Store, checkpoint: Checkpoint, tmp_path: Path
    ) -> None:
        assert set(store.noted_weights("toy").values()) == {(None, None)}
        store.note_weights("toy", {("s", 7): ("sha-1", None), ("s", 3): ("sha-1", "s@7")})
        store.note_weights("toy", {("m", 3): ("sha-2", None)})
        write(store, checkpoint, 0, 10)
        store.claim(toy_suite(tmp_path / "more", steps=(0, 3, 5, 7)), FINGERPRINT)
        noted = {key: note for key, note in store.noted_weights("toy").items() if note != (None, None)}
        assert noted == {("s", 7): ("sha-1", None), ("s", 3): ("sha-1", "s@7"), ("m", 3): ("sha-2", None)}
        store.note_weights("toy", {("s", 3): (None, None)})
        assert store.noted_weights("toy")["s", 3] == (None, None)
        assert verify(store.path).damages == ()
        with pytest.raises(BadInput, match="s@99"):
            store.note_weights("toy", {("s", 99): ("x", None)})
        with pytest.raises(StoreConflict, match="no suite 'unclaimed'"):
            store.note_weights("unclaimed", {("s", 3): ("x", None)})

    def test_notes_on_another_checkpoint_of_the_name_go(self, store: Store, tmp_path: Path) -> None:
        store.note_weights("toy", {("s", 3): ("sha-1", None)})
        store.claim(toy_suite(tmp_path / "other", batch=40, trained=280), FINGERPRINT)
        assert set(store.noted_weights("toy").values()) == {(None, None)}
