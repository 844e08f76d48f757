"""Memorized text and exports, on the shipped sequences with synthetic scores."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from store_parts import rewrite
from tokenizers import Tokenizer
from typer.testing import CliRunner

from memoserve.cli import app
from memoserve.errors import MemoserveError
from memoserve.memorized import find_private
from memoserve.sequences import load_tokenizer, open_sequences
from memoserve.store import Store
from memoserve.suites import Suite, load_suite

TARGET, PREDICTOR = "1.2m@1001", "532k@161"
CONTROL = range(32032, 32132)
# Gaps, and a checkpoint that was also evaluated on what it has not seen (532k@161 has seen 5152).
EVALUATED = {TARGET: [(0, 8000), (32032, 32132)], PREDICTOR: [(0, 4000), (4500, 6000), (32032, 32132)]}
SEEN = {TARGET: 32032, PREDICTOR: 5152}


def call(*arguments: str | Path, code: int = 0) -> str:
    """What memoserve prints; of an expected error its message."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, MemoserveError):
        assert result.exception.exit_code == code, result.exception
        return str(result.exception)
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


@dataclass
class World:
    """A store, and what is in it. `masks`: checkpoint -> id -> match mask."""

    path: Path
    tokenizer: Tokenizer
    windows: dict[int, tuple[int, ...]]
    masks: dict[str, dict[int, int]] = field(default_factory=dict)

    def memorized(self, name: str) -> set[int]:
        return {i for i, mask in self.masks[name].items() if mask == 2**32 - 1 and i < SEEN[name]}

    def cell(self, cell: str) -> set[int]:
        target, predicted = self.memorized(TARGET), self.memorized(PREDICTOR)
        known = set(self.masks[PREDICTOR]) | set(range(SEEN[PREDICTOR], SEEN[TARGET]))
        return {
            "memorized": target,
            "hit": target & predicted,
            "miss": (target - predicted) & known,
            "false-alarm": (predicted - target) & set(self.masks[TARGET]),
        }[cell]

    def text(self, sequence: int, first: int = 0, stop: int = 64) -> str:
        text: str = self.tokenizer.decode(list(self.windows[sequence])[first:stop], skip_special_tokens=False)
        return text


def prefix_of(mask: int) -> int:
    return next((i for i in range(32) if not mask >> i & 1), 32)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    mini: Suite = load_suite("mini")
    source = open_sequences(str(mini.sequences.path))
    ids = [*range(8000), *CONTROL]
    windows = dict(zip(ids, map(tuple, source.take(np.array(ids), 64).tolist()), strict=True))
    path = tmp_path_factory.mktemp("memorized") / "store"
    store = Store.create(path)
    identity = {f"sequences_{key}": value for key, value in source.identity().items()}
    store.claim(mini, {"suite": "mini", "context": 32, "engine": "synthetic", **identity})
    world = World(path, load_tokenizer(str(mini.sequences.tokenizer)), windows)

    numbers = {window: place - 900 for place, window in enumerate(sorted(set(windows.values())))}
    for first, stop in EVALUATED[TARGET]:
        part = np.arange(first, stop)
        window_ids = np.array([numbers[windows[i]] for i in range(first, stop)])
        store.write_sequences("mini", first, stop, part, window_ids)
    for seed, name in enumerate((TARGET, PREDICTOR)):
        rng = np.random.default_rng(seed)
        masks = {window: int(rng.integers(0, 2**32, dtype=np.uint32)) for window in numbers}
        for window in numbers:
            if rng.random() < (0.4, 0.3)[seed]:
                masks[window] = 2**32 - 1
        model, step = name.split("@")
        checkpoint = mini.checkpoint(next(m for m in mini.models if m.name == model), int(step))
        world.masks[name] = {}
        for first, stop in EVALUATED[name]:
            part = np.arange(first, stop)
            mine = [masks[windows[i]] for i in range(first, stop)]
            world.masks[name] |= dict(zip(part.tolist(), mine, strict=True))
            store.write_scores(
                checkpoint, first, stop, part,
                SimpleNamespace(
                    matched_prefix=np.array([prefix_of(mask) for mask in mine], np.uint8),
                    match_mask=np.array(mine, np.uint32),
                    continuation_ll=-np.arange(first, stop, dtype=np.float32),
                ),
                "synthetic",
            )  # fmt: skip
    return world


def show(world: World, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(call("show", world.path, *arguments, "--format", "json"))
    return found


COMPARED = ("--target", TARGET, "--predictor", PREDICTOR)


class TestShow:
    @pytest.mark.parametrize("cell", ["memorized", "hit", "miss", "false-alarm"])
    def test_cells_by_sets_each_window_once(self, world: World, cell: str) -> None:
        expected: dict[tuple[int, ...], list[int]] = {}
        for sequence in sorted(world.cell(cell)):
            expected.setdefault(world.windows[sequence], []).append(sequence)
        assert len(expected) > 30
        shown = show(world, *COMPARED, "--cell", cell, "--limit", "100000")
        assert [(row["sequence_id"], row["occurrences"]) for row in shown] == [
            (ids[0], len(ids)) for ids in expected.values()
        ]
        for row in shown:
            sequence = row["sequence_id"]
            assert row["context"] + row["continuation"] == world.text(sequence)
            other = {"hit": None, "false-alarm": TARGET}.get(cell, PREDICTOR)
            mask = None if other is None else world.masks[other].get(sequence)
            if mask is None:
                assert row["compared"] is row["mismatches"] is None
            else:
                assert row["compared"] == other
                assert row["mismatches"] == [i for i in range(32) if not mask >> i & 1]
                assert row["matches"] == mask.bit_count()

    def test_the_default_is_the_largest_models_last_step(self, world: World) -> None:
        shown = show(world, "--limit", "3")
        assert [row["sequence_id"] for row in shown] == [
            row["sequence_id"] for row in show(world, "--target", TARGET)[:3]
        ]
        assert len(show(world)) == 20

    def test_search_goes_through_all_in_any_case(self, world: World) -> None:
        everything = show(world, "--limit", "100000")
        texts = {row["sequence_id"]: row["context"] + row["continuation"] for row in everything}
        expected = [i for i, text in texts.items() if "valueerror" in text.lower()]
        # Beyond the default limit's first rows, else this shows nothing.
        assert expected
        assert expected[0] > everything[20]["sequence_id"]
        found = show(world, "--search", "vaLUEerror", "--limit", "100000")
        assert [row["sequence_id"] for row in found] == expected
        assert show(world, "--search", "nowhere to be found") == []

    def test_mismatching_tokens_are_marked_where_they_stand(self, world: World) -> None:
        rows = {row["sequence_id"]: row for row in show(world, *COMPARED, "--cell", "miss", "--limit", "50")}
        said = call("show", world.path, *COMPARED, "--cell", "miss", "--limit", "50")
        blocks = said.split("\nsequence ")[1:]
        assert len(blocks) == 50
        compared = 0
        for block in blocks:
            sequence = int(block.split(maxsplit=1)[0].rstrip(","))
            line = next(line for line in block.splitlines() if line.startswith("  continuation"))
            if rows[sequence]["mismatches"] is None:
                assert "[-" not in line
                continue
            compared += 1
            expected, inside = "", False
            for place in range(32):
                wrong = place in rows[sequence]["mismatches"]
                expected += ("-]" if inside and not wrong else "") + ("[-" if wrong and not inside else "")
                expected += escaped(world.text(sequence, 32 + place, 33 + place))
                inside = wrong
            assert line[16:] == expected + ("-]" if inside else "")
        assert compared > 20

    def test_csv_holds_texts_as_they_are(self, world: World) -> None:
        table = list(csv.reader(io.StringIO(call("show", world.path, "--format", "csv"), newline="")))
        assert table[0][:3] == ["sequence_id", "window_id", "occurrences"]
        for row, exact in zip(table[1:], show(world), strict=True):
            assert row[3:5] == [exact["context"], exact["continuation"]]
        assert "\n" in exact["context"] + exact["continuation"]

    def test_a_cell_needs_a_predictor_and_names_are_checked(self, world: World) -> None:
        assert "--predictor" in call("show", world.path, "--cell", "miss", code=3)
        message = call("show", world.path, "--target", "1.2m@161", code=3)
        assert f"{PREDICTOR}, {TARGET}" in message

    def test_other_sequences_are_refused(self, world: World, tmp_path: Path) -> None:
        other = tmp_path / "other.npy"
        np.save(other, np.zeros((9000, 64), np.uint16))
        message = call("show", world.path, "--data", other, code=4)
        assert "sequences_data_sha256" in message

    def test_without_a_tokenizer_token_ids(self, world: World) -> None:
        source = str(load_suite("mini").sequences.path)
        # A suite that memoserve doesn't know: the sequences have to be named, and there is no tokenizer.
        store = world.path.parent / "unknown"
        if not store.exists():
            rename_suite(world.path, store)
        assert "--data" in call("show", store, code=3)
        shown = json.loads(call("show", store, "--data", source, "--limit", "2", "--format", "json"))
        for row in shown:
            tokens = [int(word) for word in (row["context"] + row["continuation"]).split()]
            assert tokens == list(world.windows[row["sequence_id"]])
        assert "--tokenizer" in call("show", store, "--data", source, "--redact", code=3)
        assert "--tokenizer" in call("show", store, "--data", source, "--search", "x", code=3)


def escaped(text: str) -> str:
    """The mini suite's text is printable ASCII but for these."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


def rename_suite(store: Path, copy: Path) -> None:
    import shutil

    shutil.copytree(store, copy)
    for folder in ("scores", "sequences", "suites"):
        (copy / folder / "suite=mini").rename(copy / folder / "suite=nowhere")
    for part in copy.glob("scores/*/*/*/part-*.parquet"):
        rewrite(part, said=lambda said, part=part: said | {"name": str(part.relative_to(copy))})  # type: ignore[misc]


class TestRedaction:
    @pytest.mark.parametrize(
        ("text", "kind", "private"),
        [
            ("mail jane.doe+x@example.co.uk now", "email", "jane.doe+x@example.co.uk"),
            ("cut at the end jane@exam", "email", "jane@exam"),
            ("call +49 (30) 1234-5678!", "phone", "+49 (30) 1234-5678"),
            ("call (415) 555-2671", "phone", "(415) 555-2671"),
            ("call 030 1234567 now", "phone", "030 1234567"),
            ("at 192.168.17.5:80", "ip address", "192.168.17.5"),
            ("at 2001:db8::ff00:42:8329 or", "ip address", "2001:db8::ff00:42:8329"),
            ("ssn 078-05-1120", "number", "078-05-1120"),
            ("card 4111 1111 1111 1111", "number", "4111 1111 1111 1111"),
            ("account 123456789012", "number", "123456789012"),
            ("iban DE89 3704 0044 0532 0130 00 ok", "number", "DE89 3704 0044 0532 0130 00"),
            ("git clone https://bob:hunter2@host/x", "credentials", "bob:hunter2@host"),
            ("id AKIAIOSFODNN7EXAMPLE ok", "key", "AKIAIOSFODNN7EXAMPLE"),
            ("t = ghp_" + "a1B2" * 9, "key", "ghp_" + "a1B2" * 9),
            ("xoxb-123-456-abcDEF x", "key", "xoxb-123-456-abcDEF"),
            ("AIza" + "x" * 35, "key", "AIza" + "x" * 35),
            ("sk-proj-abcdefghij0123456789 ", "key", "sk-proj-abcdefghij0123456789"),
            ("hf_" + "Ab" * 17, "key", "hf_" + "Ab" * 17),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-_", "key",
             "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-_"),
            ("Authorization: Bearer abcdef0123456789xyz", "key", "abcdef0123456789xyz"),
            ('api_key = "s3cr3t-v4lue"', "key", "s3cr3t-v4lue"),
            ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc", "private key",
             "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc"),
        ],
    )  # fmt: skip
    def test_shapes(self, text: str, kind: str, private: str) -> None:
        found = find_private(text)
        assert [r.kind for r in found] == [kind]
        assert text[found[0].start : found[0].end].startswith(private)

    @pytest.mark.parametrize(
        "text",
        [
            "on 2013-04-01 12:30:59, version 1.2.3, 999.1.2.3, 10:20:30",
            "x[1:2], a::b, std::vector, 12345678, 0x7fff, 3.14159265",
            "def get(self, value): return self.values[0] @ matrix",
            "password: str",
            "https://example.com/a@b" .replace("a@b", "ab"),
        ],
    )  # fmt: skip
    def test_what_is_no_ones_secret(self, text: str) -> None:
        assert find_private(text) == []

    def test_across_the_border_of_context_and_continuation(self, tmp_path: Path) -> None:
        tokenizer = load_suite("mini").sequences.tokenizer
        decoder = load_tokenizer(str(tokenizer))
        # A window of synthetic text whose 32nd token ends inside the address.
        address = "jane.doe@example.com"
        for pad in range(40):
            tokens = decoder.encode("x = 1\n" * pad + address + "\ny = 2" * 60).ids[:64]
            if 0 < len(decoder.decode(tokens[:32])) - len("x = 1\n" * pad) < len(address):
                break
        else:
            pytest.fail("no padding puts the border into the address")
        np.save(tmp_path / "d.npy", np.array([tokens], np.uint16))
        (tmp_path / "suite.toml").write_text(
            f"""
            name = "one"
            batch_size = 1
            sequence_length = 64
            eos = "allow"
            eos_token_id = 0
            steps = [1]
            [sequences]
            path = "d.npy"
            tokenizer = "{tokenizer}"
            trained = 1
            [[models]]
            name = "m"
            parameters = 1
            parameters_without_embeddings = 1
            folder = "w{{step}}"
            """
        )
        suite = load_suite(tmp_path / "suite.toml")
        store = Store.create(tmp_path / "store")
        source = open_sequences(str(tmp_path / "d.npy"))
        store.claim(suite, {f"sequences_{k}": v for k, v in source.identity().items()})
        memorized = SimpleNamespace(
            matched_prefix=np.array([32], np.uint8), match_mask=None, continuation_ll=None
        )
        store.write_scores(suite.checkpoint(suite.models[0], 1), 0, 1, np.array([0]), memorized, "w")
        for form in ("json", "csv", "table"):
            arguments = ("show", store.path, "--suite", tmp_path / "suite.toml", "--format", form)
            assert "jane" in call(*arguments)
            said = call(*arguments, "--redact", "--search", "jane.doe@")
            assert said.count("<email>") == 2
            assert not any(part in said for part in ("jane", "doe", "e@e", "exam", "ple.com"))
            assert "y = 2" in said


def test_emergent_windows_with_their_text(world: World) -> None:
    """Those that the query names, as text; a search looks through all of them."""
    last = "1.2m@1001"
    for below in (14.0, 20.0):
        answers = json.loads(
            call("query", "emergent", world.path, "--threshold", str(below), "--rows", "100000", "-f", "json")
        )
        expected = [row["sequence_id"] for row in answers]
        shown = show(world, "--cell", "emergent", "--below", str(below), "-n", "100000")
        assert [row["sequence_id"] for row in shown] == expected
        assert all(row["context"] + row["continuation"] == world.text(row["sequence_id"]) for row in shown)
        assert [
            r["sequence_id"] for r in show(world, "--cell", "emergent", "--below", str(below), "-n", "2")
        ] == (expected[:2])
    assert len(expected) > 3
    word = world.text(expected[-1]).split()[-1]
    found = show(world, "--cell", "emergent", "--below", "20", "--search", word, "-n", "100000")
    assert [row["sequence_id"] for row in found] == [
        i for i in expected if word.casefold() in world.text(i).casefold()
    ]
    said = call("show", world.path, "--cell", "emergent", "--below", "20", "-n", "1")
    assert said.startswith(f"memorized by {last}, though every smaller model scores below 20 of 32")


class TestExport:
    def test_rows_and_evidence(self, world: World, tmp_path: Path) -> None:
        file = tmp_path / "list.parquet"
        said = call("export", world.path, "--predictor", PREDICTOR, "--target", TARGET, "-o", file)
        predicted = sorted(world.memorized(PREDICTOR))
        rows = pq.read_table(file).to_pylist()
        assert [row["sequence_id"] for row in rows] == predicted
        assert f"{len(predicted):,} sequences" in said
        times: dict[tuple[int, ...], int] = {}
        for i in predicted:
            times[world.windows[i]] = times.get(world.windows[i], 0) + 1
        for row in rows:
            i = row["sequence_id"]
            assert row["predictor"] == PREDICTOR
            assert row["matches"] == row["matched_prefix"] == 32
            assert row["continuation_ll"] == -i
            assert row["occurrences"] == times[world.windows[i]]
            assert row["target_memorized"] == (i in world.memorized(TARGET))
        said_in_file = json.loads(pq.read_metadata(file).metadata[b"memoserve"])
        assert said_in_file["predictor"] == PREDICTOR
        assert said_in_file["fingerprint"] == Store.open(world.path).fingerprint("mini")
        answers = csv.DictReader(
            io.StringIO(call("query", "checkpoints", world.path, "--target", TARGET, "--format", "csv"))
        )
        (row,) = [r for r in answers if r["predictor"] == PREDICTOR and r["unit"] == "sequences"]
        assert int(row["both_memorized"]) == sum(r["target_memorized"] is True for r in rows)

    def test_threshold(self, world: World, tmp_path: Path) -> None:
        file = tmp_path / "list.csv"
        call("export", world.path, "--predictor", PREDICTOR, "--threshold", "18", "-o", file)
        rows = list(csv.DictReader(file.open()))
        expected = [
            i for i, mask in world.masks[PREDICTOR].items() if mask.bit_count() >= 18 and i < SEEN[PREDICTOR]
        ]
        assert len(expected) > len(world.memorized(PREDICTOR))
        assert [int(row["sequence_id"]) for row in rows] == sorted(expected)
        assert "target_memorized" not in rows[0]

    def test_a_signal_of_ones_own(self, world: World, tmp_path: Path) -> None:
        file = tmp_path / "list.csv"
        seen = [i for i in world.masks[PREDICTOR] if i < SEEN[PREDICTOR]]
        for signal, threshold, expected in (
            ("matched_prefix", "2", [i for i in seen if prefix_of(world.masks[PREDICTOR][i]) >= 2]),
            ("matches", "20", [i for i in seen if world.masks[PREDICTOR][i].bit_count() >= 20]),
            ("continuation_ll", "-700.5", [i for i in seen if -i >= -700.5]),
        ):
            arguments = ("--signal", signal, "--threshold", threshold)
            call("export", world.path, "--predictor", PREDICTOR, *arguments, "-o", file)
            rows = list(csv.DictReader(file.open()))
            assert [int(row["sequence_id"]) for row in rows] == sorted(expected)
            assert 0 < len(expected) < len(seen)

    def test_a_union(self, world: World, tmp_path: Path) -> None:
        file = tmp_path / "list.parquet"
        one, other = world.memorized(PREDICTOR), world.memorized(TARGET)
        for arguments in (
            ("--predictor", f"{PREDICTOR} + {TARGET}"),
            ("--predictor", PREDICTOR, "--predictor", TARGET, "--predictor", PREDICTOR),
        ):
            said = call("export", world.path, *arguments, "-o", file)
            rows = pq.read_table(file).to_pylist()
            assert [row["sequence_id"] for row in rows] == sorted(one | other)
            assert f"{len(one | other):,} sequences that {PREDICTOR} or {TARGET} predict" in said
            for row in rows:
                i = row["sequence_id"]
                names = [name for name, its in ((PREDICTOR, one), (TARGET, other)) if i in its]
                assert row["predictor"] == " + ".join(names)

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--signal", "matches"), "needs a --threshold"),
            (("--threshold", "33"), "0 to 32"),
            (("--threshold", "nan"), "takes a number"),
            (("--signal", "matched_prefix", "--threshold", "-1"), "0 to 32"),
        ],
    )
    def test_lines_that_are_none(
        self, world: World, tmp_path: Path, arguments: tuple[str, ...], says: str
    ) -> None:
        file = tmp_path / "list.txt"
        assert says in call("export", world.path, "--predictor", TARGET, *arguments, "-o", file, code=3)
        assert not file.exists()

    def test_text_is_one_id_a_line(self, world: World, tmp_path: Path) -> None:
        file = tmp_path / "list.txt"
        call("export", world.path, "--predictor", TARGET, "-o", file)
        assert file.read_text() == "".join(f"{i}\n" for i in sorted(world.memorized(TARGET)))

    def test_nothing_is_written_over_a_mistake(self, world: World, tmp_path: Path) -> None:
        file = tmp_path / "list.txt"
        file.write_text("mine")
        call("export", world.path, "--predictor", "532k@7", "-o", file, code=3)
        assert file.read_text() == "mine"
        assert ".parquet" in call(
            "export", world.path, "--predictor", TARGET, "-o", tmp_path / "x.md", code=3
        )
        call("export", world.path, "--predictor", TARGET, "-o", tmp_path / "list.txt" / "x.txt", code=7)
        assert [path.name for path in tmp_path.iterdir()] == ["list.txt"]
