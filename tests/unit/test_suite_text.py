"""What scripts/train_suite.py trains on: what is planted is there, labelled, and kept from the control."""

from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import suite_recipe
import suite_text

TRAINED = 600


@pytest.fixture(scope="module")
def text() -> list[str]:
    """Forty documents of random words, in which nothing is said twice by chance."""
    rng = np.random.default_rng(1)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, 6)) for _ in range(3000)]
    return ["\n".join(" ".join(rng.choice(words, 6)) for _ in range(120)) + "\n" for _ in range(40)]


@pytest.fixture(scope="module")
def corpus(text: list[str], tmp_path_factory: pytest.TempPathFactory) -> suite_text.Corpus:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite_text, "PASSAGES", 12)
        patch.setattr(suite_text, "PASSAGE_TOKENS", (20, 40))  # so short that most copies are whole
        patch.setattr(suite_text, "MOST_COPIES", 60)
        patch.setattr(suite_text, "REPEATING", 5)
        patch.setattr(suite_text, "COUNTING", 5)
        patch.setattr(suite_text, "SEQUENCES", 4)
        patch.setattr(suite_text, "MOST_SEQUENCE_COPIES", 6)
        patch.setattr(suite_text, "CONTROL", 50)
        suite_text.train_tokenizer(text, path)
        made = suite_text.make_corpus(text, path, TRAINED, 7)
        again = suite_text.make_corpus(text, path, TRAINED, 7)
    assert (made.sequences == again.sequences).all()
    assert all((made.planted[name] == again.planted[name]).all() for name in made.planted)
    return made


def pieces(corpus: suite_text.Corpus, kind: str) -> dict[int, list[list[int]]]:
    """The planted tokens of a kind by passage, as the labels say where they are."""
    planted = corpus.planted
    found: dict[int, list[list[int]]] = {}
    for row in np.flatnonzero(planted["kind"] == kind):
        first = planted["first_token"][row]
        sequence = corpus.sequences[planted["sequence_id"][row]]
        tokens = sequence[first : first + planted["tokens"][row]].tolist()
        assert len(tokens) == planted["tokens"][row]
        found.setdefault(int(planted["passage"][row]), []).append(tokens)
    return found


def contains(whole: list[int], part: list[int]) -> bool:
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))


def test_sequences_are_as_many_as_asked_and_the_control_is_last(corpus: suite_text.Corpus) -> None:
    assert corpus.sequences.shape == (TRAINED + 50, suite_recipe.TOKENS)
    assert corpus.planted["sequence_id"].max() < TRAINED
    assert set(corpus.planted["kind"]) == set(suite_recipe.KINDS)


def test_the_control_shares_no_run_of_32_tokens_with_training(corpus: suite_text.Corpus) -> None:
    as_text = ["".join(map(chr, row)) for row in corpus.sequences.tolist()]
    training = "\uffff".join(as_text[:TRAINED])
    for control in as_text[TRAINED:]:
        assert not any(control[i : i + 32] in training for i in range(len(control) - 31))


@pytest.mark.parametrize("kind", ["exact", "edited", "template"])
def test_copies_of_a_passage_are_as_many_as_labelled(corpus: suite_text.Corpus, kind: str) -> None:
    rows = corpus.planted
    for passage, found in pieces(corpus, kind).items():
        (copies,) = set(rows["copies"][rows["passage"] == passage].tolist())
        # The end of a sequence cuts some copies in two; what is whole tells the passage's length.
        assert sum(map(len, found)) == copies * max(map(len, found))


def test_exact_copies_are_of_one_passage(corpus: suite_text.Corpus) -> None:
    for found in pieces(corpus, "exact").values():
        whole = max(found, key=len)
        assert all(contains(whole, piece) for piece in found)


def test_edited_copies_differ_in_a_few_tokens_and_templates_in_their_slots(corpus: suite_text.Corpus) -> None:
    changed = {"edited": 0, "template": 0}
    for kind, most in (("edited", 2 * suite_recipe.EDITS[1]), ("template", suite_recipe.SLOTS)):
        for found in pieces(corpus, kind).values():
            copies = np.array([piece for piece in found if len(piece) == max(map(len, found))])
            places = (copies != copies[:1]).any(axis=0).sum() if kind == "template" else 0
            assert places <= suite_recipe.SLOTS
            assert ((copies != copies[:1]).sum(axis=1) <= most).all()
            changed[kind] += int((copies != copies[:1]).sum())
    assert all(changed.values())


def test_whole_sequences_are_trained_on_as_often_as_labelled(corpus: suite_text.Corpus) -> None:
    rows = corpus.planted
    training = corpus.sequences[:TRAINED]
    for passage, found in pieces(corpus, "sequence").items():
        copies = int(rows["copies"][rows["passage"] == passage][0])
        assert len(found) == copies >= 2
        assert (training == np.array(found[0])).all(axis=1).sum() == copies


def test_repeating_text_repeats_a_phrase(corpus: suite_text.Corpus) -> None:
    low, high = suite_recipe.PHRASE_TOKENS
    for found in pieces(corpus, "repeating").values():
        for piece in found:
            assert any(piece[n:] == piece[:-n] for n in range(low, high + 1))


def test_documents_come_from_a_folder_a_zip_or_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.txt").write_text("second")
    (folder / "deep" / "a.txt").write_text("third")
    (folder / "a.txt").write_text("first")
    (folder / "empty.txt").write_text(" \n")
    (folder / "binary.txt").write_bytes(b"\xff\xfe\xff")
    (folder / "a.bin").write_text("not text")
    assert suite_text.read_documents(folder, (".txt",)) == ["first", "second", "third"]
    with ZipFile(tmp_path / "text.whl", "w") as archive:
        archive.write(folder / "b.txt", "b.txt")
        archive.write(folder / "a.txt", "a.txt")
    assert suite_text.read_documents(tmp_path / "text.whl", (".txt",)) == ["first", "second"]
    assert suite_text.read_documents(folder / "a.txt", (".md",)) == ["first"]
    with pytest.raises(SystemExit, match=r"has no text in files named \.md"):
        suite_text.read_documents(folder, (".md",))
    with pytest.raises(SystemExit, match="does not exist"):
        suite_text.read_documents(tmp_path / "nowhere", (".txt",))


def test_too_little_text_says_how_much_is_needed(text: list[str], tmp_path: Path) -> None:
    suite_text.train_tokenizer(text, tmp_path / "tokenizer.json")
    with pytest.raises(SystemExit, match=r"too short for the passages|tokens and .* are needed"):
        suite_text.make_corpus(text[:5], tmp_path / "tokenizer.json", 32_032, 7)
