"""Imports of other people's scores. All files are synthetic, made here in the schemas of the real ones."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from memoserve.cli import app
from memoserve.errors import MemoserveError

BATCH = 1024  # of the authors' script
TRAINED = 6000

# Named as the paper's, so that the comparison with its table finds them.
SUITE = f"""
name = "pythia"
batch_size = 40
sequence_length = 64
eos = "ban"
eos_token_id = 0
steps = [0, 50, 150]
[sequences]
trained = {TRAINED}
[[models]]
name = "70m"
parameters = 70
parameters_without_embeddings = 7
hub = "x/70m"
[[models]]
name = "1.4b"
parameters = 1400
parameters_without_embeddings = 140
hub = "x/1.4b"
[[models]]
name = "12b"
parameters = 12000
parameters_without_embeddings = 1200
hub = "x/12b"
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    file = tmp_path / "suite.toml"
    file.write_text(SUITE)
    return file


def call(*arguments: str | Path, code: int = 0) -> str:
    """What memoserve prints; of an expected error its message."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, MemoserveError):
        assert result.exception.exit_code == code, result.exception
        return str(result.exception)
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def ask(name: str, store: Path, *arguments: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(call("query", name, store, "--format", "csv", *arguments))))


def sql(store: Path, statement: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(call("sql", statement, store, "--format", "json"))
    return found


# The published lists


def tokens_of(index: int) -> list[int]:
    # Neighbours are the same window.
    rng = random.Random(index // 2)
    return [rng.randrange(50_000) for _ in range(64)]


def publish(folder: Path, split: str, ids: list[int], shards: int = 1) -> list[Path]:
    """A split as the hub lays it out, in shuffled order: the data set is in no order that one may rely on."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = random.Random(split).sample(ids, len(ids))
    files = []
    for shard in range(shards):
        part = ids[shard::shards]
        table = pa.table(
            {
                "index": pa.array(part, pa.int64()),
                "tokens": pa.array([tokens_of(i) for i in part], pa.list_(pa.int64())),
                "__index_level_0__": pa.array(part, pa.int64()),
            }
        )
        files.append(folder / f"{split}-{shard:05d}-of-{shards:05d}-{shard:016x}.parquet")
        pq.write_table(table, files[-1])
    return files


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, dict[str, set[int]]]:
    """A data folder, and what each checkpoint memorized."""
    rng = random.Random(5)
    data = tmp_path / "dataset" / "data"
    small = set(rng.sample(range(TRAINED), 120))
    middle = set(rng.sample(sorted(small), 100)) | set(rng.sample(range(TRAINED), 150))
    large = set(rng.sample(sorted(middle), 180)) | set(rng.sample(range(TRAINED), 300)) | {0, TRAINED - 1}
    early = {i for i in large if i < 2000 and i % 3}
    publish(data, "duped.70m", sorted(small))
    publish(data, "duped.1.4b", sorted(middle), shards=2)
    publish(data, "duped.12b", sorted(large), shards=3)
    publish(data, "duped.12b.50", sorted(early))
    publish(data, "deduped.70m", [1, 2, 3])
    return data, {"70m@150": small, "1.4b@150": middle, "12b@150": large, "12b@50": early}


class TestPublished:
    def test_every_seen_sequence_was_evaluated_and_the_listed_ones_are_memorized(
        self, tmp_path: Path, suite: Path, published: tuple[Path, dict[str, set[int]]]
    ) -> None:
        data, memorized = published
        store = tmp_path / "store"
        # The root of the data set will do as well as its data folder.
        said = call("import", "pythia-memorized-evals", data.parent, "--suite", suite, "--out", store)
        assert "deduped" not in said
        for name, ids in memorized.items():
            distinct = {tuple(tokens_of(i)) for i in ids}
            assert f"{name}: " in said
            assert f"{len(ids):,} memorized ({len(distinct):,} distinct)" in said
        counts = {row["checkpoint"]: row for row in ask("counts", store)}
        assert counts.keys() == memorized.keys()
        for name, ids in memorized.items():
            assert int(counts[name]["sequences"]) == (2000 if name.endswith("@50") else TRAINED)
            assert int(counts[name]["sequences_memorized"]) == len(ids)
            assert counts[name]["windows"] == ""
            model, step = name.split("@")
            where = f"model = '{model}' AND step = {step}"
            found = sql(store, f"SELECT sequence_id FROM memorized WHERE {where} ORDER BY 1")
            assert [row["sequence_id"] for row in found] == sorted(ids)
            # How many tokens of the others match is unknown: neither 0 nor anything else.
            scores = sql(store, f"SELECT DISTINCT matches, matched_prefix FROM scores WHERE {where}")
            assert {(row["matches"], row["matched_prefix"]) for row in scores} == {(32, None), (None, None)}

    def test_predictors_by_sets(
        self, tmp_path: Path, suite: Path, published: tuple[Path, dict[str, set[int]]]
    ) -> None:
        data, memorized = published
        store = tmp_path / "store"
        call("import", "pythia-memorized-evals", data, "--suite", suite, "--out", store)
        target = memorized["12b@150"]
        rows = ask("predictors", store)
        assert [row["unit"] for row in rows] == ["sequences"] * 2
        for row in rows:
            ids = memorized[row["predictor"]]
            assert float(row["precision"]) == len(ids & target) / len(ids)
            assert float(row["recall_corpus"]) == len(ids & target) / len(target)
            assert int(row["evaluated_both"]) == TRAINED
        early = next(row for row in ask("checkpoints", store) if row["predictor"] == "12b@50")
        ids = memorized["12b@50"]
        assert float(early["recall_seen"]) == len(ids & target) / len({i for i in target if i < 2000})
        assert float(early["recall_corpus"]) == len(ids & target) / len(target)

    def test_unknown_scores_are_in_no_distribution_and_not_memorized_in_correlations(
        self, tmp_path: Path, suite: Path, published: tuple[Path, dict[str, set[int]]]
    ) -> None:
        data, memorized = published
        store = tmp_path / "store"
        call("import", "pythia-memorized-evals", data, "--suite", suite, "--out", store)
        assert ask("distribution", store) == []
        pairs = ask("correlation", store)
        assert len(pairs) == 3
        for row in pairs:
            first, second = memorized[row["first"]], memorized[row["second"]]
            a = np.isin(np.arange(TRAINED), sorted(first))
            b = np.isin(np.arange(TRAINED), sorted(second))
            assert int(row["both_memorized"]) == len(first & second)
            assert float(row["phi"]) == pytest.approx(np.corrcoef(a, b)[0, 1])
            assert row["pearson_matches"] == ""

    def test_nothing_in_common_is_none_in_common(self, tmp_path: Path, suite: Path) -> None:
        publish(tmp_path / "data", "duped.70m", [1, 2])
        publish(tmp_path / "data", "duped.12b", [3, 4, 5])
        store = tmp_path / "store"
        call("import", "pythia-memorized-evals", tmp_path / "data", "--suite", suite, "--out", store)
        (pair,) = ask("correlation", store)
        counted = [pair[name] for name in ("n", "first_memorized", "second_memorized", "both_memorized")]
        assert counted == [str(TRAINED), "2", "3", "0"]

    def test_what_an_early_checkpoint_had_not_seen_is_left_out(self, tmp_path: Path, suite: Path) -> None:
        (file,) = publish(tmp_path, "duped.12b.50", [1, 1999, 2000, 5000])
        store = tmp_path / "store"
        said = call("import", "pythia-memorized-evals", file, "--suite", suite, "--out", store)
        assert "2,000 sequences, 2 memorized (2 distinct); 2 listed ones it had not seen left out" in said
        (row,) = ask("counts", store)
        assert (row["sequences"], row["sequences_memorized"], row["unseen"]) == ("2000", "2", "0")

    def test_compare_with_the_paper(
        self, tmp_path: Path, suite: Path, published: tuple[Path, dict[str, set[int]]]
    ) -> None:
        data, memorized = published
        store = tmp_path / "store"
        call("import", "pythia-memorized-evals", data, "--suite", suite, "--out", store)
        rows = {row["model"]: row for row in ask("predictors", store, "--compare", "paper")}
        # The paper's table, from the paper.
        assert {m: (r["paper_precision"], r["paper_recall"]) for m, r in rows.items()} == {
            "70m": ("0.956", "0.197"), "160m": ("0.948", "0.289"), "410m": ("0.94", "0.401"),
            "1b": ("0.931", "0.512"), "1.4b": ("0.926", "0.554"), "2.8b": ("0.909", "0.658"),
            "6.9b": ("0.884", "0.795"),
        }  # fmt: skip
        assert {model for model, row in rows.items() if row["precision"]} == {"70m", "1.4b"}
        small, target = memorized["70m@150"], memorized["12b@150"]
        row = rows["70m"]
        assert float(row["precision_difference"]) == pytest.approx(len(small & target) / len(small) - 0.956)
        assert float(row["recall_difference"]) == pytest.approx(len(small & target) / len(target) - 0.197)
        assert float(row["ratio"]) == pytest.approx(len(target) / len(small))
        assert float(row["paper_ratio"]) == pytest.approx(0.956 / 0.197)
        assert "--compare paper" in call("query", "counts", store, "--compare", "paper", code=3)
        assert "--compare paper" in call("query", "predictors", store, "--compare", "notebook", code=3)

    def test_a_missing_file_of_a_split_is_refused(
        self, tmp_path: Path, suite: Path, published: tuple[Path, dict[str, set[int]]]
    ) -> None:
        data, _ = published
        files = sorted(data.glob("duped.12b-*"))
        arguments = ("--suite", suite, "--out", tmp_path / "store")
        assert "00001 is missing" in call("import", "pythia-memorized-evals", files[0], *arguments, code=3)
        files[1].unlink()
        assert "00001 is missing" in call("import", "pythia-memorized-evals", data, *arguments, code=3)
        assert not (tmp_path / "store").exists()
        # Of the splits that are whole, any may be imported.
        call("import", "pythia-memorized-evals", data, "--split", "duped.70m", *arguments)

    def test_a_single_file_by_any_name_through_fsspec(self, tmp_path: Path, suite: Path) -> None:
        (file,) = publish(tmp_path, "duped.70m", [3, 5, 5999])
        other = file.rename(tmp_path / "mine.parquet")
        arguments = ("--suite", suite, "--out", tmp_path / "store")
        assert "--split" in call("import", "pythia-memorized-evals", other, *arguments, code=3)
        said = call(
            "import", "pythia-memorized-evals", other, "--split", "duped.70m", *arguments
        )  # fmt: skip
        assert "70m@150: 6,000 sequences, 3 memorized" in said
        publish(tmp_path / "remote" / "data", "duped.1.4b", [8, 9], shards=2)
        said = call("import", "pythia-memorized-evals", f"file://{tmp_path}/remote/data", *arguments)
        assert "1.4b@150: 6,000 sequences, 2 memorized" in said

    def test_again_changes_nothing_and_other_lists_are_refused(self, tmp_path: Path, suite: Path) -> None:
        (file,) = publish(tmp_path, "duped.70m", [3, 5])
        arguments = ("--suite", suite, "--out", tmp_path / "store")
        call("import", "pythia-memorized-evals", file, *arguments)
        assert "was here already" in call("import", "pythia-memorized-evals", file, *arguments)
        file.unlink()
        (file,) = publish(tmp_path, "duped.70m", [3, 6])
        assert "other files" in call("import", "pythia-memorized-evals", file, *arguments, code=4)

    @pytest.mark.parametrize(
        ("damage", "said"),
        [
            ({"index": [1, TRAINED]}, f"row 1: has index {TRAINED}"),
            ({"index": [1, -1]}, "row 1: has index -1"),
            ({"index": [7, 7]}, "sequence 7 more than once"),
            ({"tokens": [[1] * 64, [1] * 63]}, "row 1: has 63 tokens"),
            ({"tokens": ["a", "b"]}, "no column tokens"),
        ],
    )
    def test_what_is_not_the_data_set_is_refused_by_row(
        self, tmp_path: Path, suite: Path, damage: dict[str, Any], said: str
    ) -> None:
        table = {"index": [1, 2], "tokens": [[1] * 64, [2] * 64], **damage}
        file = tmp_path / "duped.70m-00000-of-00001-0123456789abcdef.parquet"
        pq.write_table(pa.table(table), file)
        message = call(
            "import", "pythia-memorized-evals", file, "--suite", suite, "--out", tmp_path / "s", code=3
        )
        assert said in message
        assert call("query", "counts", tmp_path / "s", "--format", "csv").count("\n") == 1


# The authors' CSV parts


def rank_files(folder: Path, matches: np.ndarray[Any, Any], ranks: int, *, total: int) -> list[Path]:
    """What the authors' script writes: `matches` of all the data there is, `total` of it to evaluate."""
    folder.mkdir(exist_ok=True)
    files = []
    share = total // ranks
    for rank in range(ranks):
        end = total if rank == ranks - 1 else share * (rank + 1)
        lines = []
        for start in range(share * rank, end, BATCH):
            batch = matches[start : start + BATCH]
            first = start if len(batch) == BATCH else start + 1
            lines += [f"{first + i},{np.float32(m / 32)}" for i, m in enumerate(batch)]
        files.append(folder / f"rank-{rank}.csv")
        files[-1].write_text("\n".join(lines))
    return files


def import_csv(store: Path, suite: Path, *arguments: str | Path, code: int = 0) -> str:
    return call(
        "import", "csv", *arguments, "--suite", suite, "--checkpoint", "12b@150", "--out", store, code=code
    )  # fmt: skip


class TestCsv:
    def test_overlapping_ranks_and_the_last_batch(self, tmp_path: Path, suite: Path) -> None:
        matches = np.random.default_rng(3).integers(0, 33, TRAINED)
        matches[::9] = 32
        # The data ends with what is evaluated: the last batch is short, and one too high.
        rank_files(tmp_path / "csv", matches, 3, total=TRAINED)
        store = tmp_path / "store"
        message = import_csv(store, suite, tmp_path / "csv", code=3)
        assert "rank-2.csv line 1025" in message
        assert "--fix-last-batch" in message
        said = import_csv(store, suite, tmp_path / "csv", "--fix-last-batch")
        assert "the last 976 lines" in said
        assert "6,000 sequences" in said
        found = sql(store, "SELECT sequence_id, matches, matched_prefix FROM scores ORDER BY 1")
        assert [row["sequence_id"] for row in found] == list(range(TRAINED))
        assert [row["matches"] for row in found] == matches.tolist()
        assert all(row["matched_prefix"] is None for row in found)
        bins = ask("distribution", store)
        assert [int(row["sequences"]) for row in bins] == np.bincount(matches, minlength=33).tolist()

    def test_the_option_leaves_right_files_alone(self, tmp_path: Path, suite: Path) -> None:
        # More data than is evaluated: every batch is full, and the last one runs over.
        matches = np.random.default_rng(4).integers(0, 33, TRAINED)
        files = rank_files(tmp_path / "csv", matches, 2, total=4000)
        said = import_csv(tmp_path / "store", suite, *reversed(files), "--fix-last-batch")
        assert "one too high" not in said
        found = sql(tmp_path / "store", "SELECT sequence_id, matches FROM scores ORDER BY 1")
        last = 2000 + 2 * BATCH
        assert [(r["sequence_id"], r["matches"]) for r in found] == list(enumerate(matches[:last].tolist()))

    def test_holes_and_disorder_are_taken_as_they_are(self, tmp_path: Path, suite: Path) -> None:
        file = tmp_path / "odd.csv"
        file.write_text("17,0.5\r\n3,1.0\r\n\r\n5999,0.03125\r\n")
        import_csv(tmp_path / "store", suite, file)
        found = sql(tmp_path / "store", "SELECT sequence_id, matches FROM scores ORDER BY 1")
        assert [tuple(row.values()) for row in found] == [(3, 32), (17, 16), (5999, 1)]

    def test_contradictions_name_both_lines(self, tmp_path: Path, suite: Path) -> None:
        (tmp_path / "a.csv").write_text("1,0.5\n2,0.5\n3,1.0\n")
        (tmp_path / "b.csv").write_text("3,1.0\n\n2,0.25\n")
        message = import_csv(tmp_path / "store", suite, tmp_path / "a.csv", tmp_path / "b.csv", code=3)
        assert "sequence 2 has two scores: 16/32" in message
        assert "a.csv line 2" in message
        assert "8/32" in message
        assert "b.csv line 3" in message
        assert not (tmp_path / "store" / "scores").exists()

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("1,0.5\n\n2,0.4\n", "line 3: '0.4' is not a share of 32 tokens"),
            ("1,0.5\n2,1.03125\n", "line 2: '1.03125' is not a share"),
            ("1,0.5\n2,nan\n", "line 2: 'nan' is not a share"),
            ("1,0.5\n2,\n", "line 2: None is not a share"),
            ("1.5,0.5\n", "line 1: '1.5' is not a sequence index"),
            ("-1,0.5\n", "line 1: '-1' is not a sequence index"),
            (
                "index,accuracy\n1,0.5\n",
                "line 1: 'index' is not a sequence index: these files have no header",
            ),
            ("1,0.5\n2,0.5,3\n", "line 2: '2,0.5,3' is not index,accuracy"),
            ("1,0.5\n2\n", "line 2: '2' is not index,accuracy"),
            (f"1,0.5\n{TRAINED},0.5\n", f"line 2: there is no sequence {TRAINED}"),
            ("", "not one line"),
        ],
    )
    def test_a_wrong_line_is_named(self, tmp_path: Path, suite: Path, text: str, said: str) -> None:
        file = tmp_path / "rank-0.csv"
        file.write_text(text)
        message = import_csv(tmp_path / "store", suite, file, code=3)
        assert said in message
        assert "rank-0.csv" in message

    def test_again_changes_nothing_and_other_files_are_refused(self, tmp_path: Path, suite: Path) -> None:
        (tmp_path / "a.csv").write_text("1,0.5\n")
        (tmp_path / "b.csv").write_text("2,0.5\n")
        store = tmp_path / "store"
        import_csv(store, suite, tmp_path / "a.csv")
        assert "was here already" in import_csv(store, suite, tmp_path / "a.csv")
        assert "in one go" in import_csv(store, suite, tmp_path / "b.csv", code=4)
        # Nor do the two kinds of imports mix.
        (file,) = publish(tmp_path, "duped.70m", [3])
        message = call("import", "pythia-memorized-evals", file, "--suite", suite, "--out", store, code=4)
        assert "imported csv vs imported pythia-memorized-evals" in message
        status = json.loads(call("status", store, "--format", "json"))
        assert status["suites"][0]["fingerprint"]["engine"] == "imported csv"

    def test_one_checkpoint_at_a_time(self, tmp_path: Path, suite: Path) -> None:
        (tmp_path / "a.csv").write_text("1,0.5\n")
        message = call(
            "import", "csv", tmp_path / "a.csv", "--suite", suite, "--checkpoint", "12b@*",
            "--out", tmp_path / "s", code=3,
        )  # fmt: skip
        assert "names 3 checkpoints" in message
