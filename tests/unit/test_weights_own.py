"""Are the weights of a checkpoint its own, and those of the model that its suite describes?"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Cli
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from weight_folders import Tensors, own_suite, reshard, save, tensors_of

from memoserve.checks import Check
from memoserve.engines import fetch_weights
from memoserve.engines.vllm.heads import CPU_HEAD_SIZES, unsupported_head_size
from memoserve.run.checks.described_weights import Use
from memoserve.run.checks.weights import WeightsReport, check_weights
from memoserve.suites import Suite, load_suite, select

STEPS = [161, 441, 721, 1001]
USE = Use("vllm", "cpu", 32)


@pytest.fixture
def file(mini: Suite, tmp_path: Path) -> Path:
    return own_suite(mini, tmp_path, "116k", STEPS)


def folder(file: Path, step: int) -> Path:
    return file.parent / f"weights/{step}"


def checked(
    file: Path, checkpoints: str = "all", use: Use = USE, stored: dict[tuple[str, int], str] | None = None
) -> WeightsReport:
    suite = load_suite(file)
    return check_weights(suite, select(suite, checkpoints), use=use, stored=stored)


def same(report: WeightsReport) -> dict[int, int]:
    return {one.step: other.step for one, other in report.same_as.items()}


def results(report: WeightsReport, name: str) -> dict[int | None, str]:
    return {check.step: check.result for check in report.checks if check.name == name}


def details(report: WeightsReport, result: str) -> str:
    return "\n".join(f"{check.name}: {check.detail}" for check in report.checks if check.result == result)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def rewrite(folder: Path, change: Callable[[Tensors], Tensors], **metadata: str) -> None:
    save(change(tensors_of(folder)), folder / "model.safetensors", **metadata)


def copy(file: Path, source: int, target: int) -> Path:
    shutil.rmtree(folder(file, target))
    return Path(shutil.copytree(folder(file, source), folder(file, target)))


# ------------------------------------------------------------------------------------------ equal steps


def with_masks(tensors: Tensors) -> Tensors:
    mask = np.tril(np.ones((1, 1, 8, 8), bool))
    return {**tensors, "gpt_neox.layers.0.attention.bias": mask}


def as_version_4_says(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {"rotary_emb_base": rope["rope_theta"], "rotary_pct": rope["partial_rotary_factor"]}
    del config["attention_bias"]  # true, as is the default
    (folder / "config.json").write_text(json.dumps(config))


def renamed(old: str, new: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()}


SAME: dict[str, Callable[[Path], object]] = {
    "a copy": lambda f: None,
    "two shards": lambda f: reshard(f, 2),
    "five shards": lambda f: reshard(f, 5),
    "another name": lambda f: (f / "model.safetensors").rename(f / "weights.safetensors"),
    "another header": lambda f: rewrite(f, lambda tensors: tensors, step="161", author="somebody"),
    "float32": lambda f: rewrite(f, lambda ts: {name: t.astype(np.float32) for name, t in ts.items()}),
    "masks beside them": lambda f: rewrite(f, with_masks),
    "names without the wrapper's": lambda f: rewrite(f, renamed("gpt_neox.", "")),
    "names of one more wrapper": lambda f: rewrite(f, renamed("gpt_neox.", "module.gpt_neox.")),
    "another name of the head": lambda f: rewrite(f, renamed("embed_out", "lm_head")),
    "another version in its configuration": lambda f: edit_config(
        f, transformers_version="4.1", dtype="float32"
    ),
    "idle fields in its configuration": lambda f: edit_config(
        f, gradient_checkpointing=True, _commit_hash="0f3c", rope_scaling=None, id2label={"0": "A"}
    ),
    "a configuration of an older version": lambda f: as_version_4_says(f),
    "an optimizer beside them": lambda f: save({"exp_avg": np.zeros(3)}, f / "optimizer.safetensors"),
}


@pytest.mark.parametrize("kind", SAME)
@pytest.mark.parametrize(("source", "target"), [(1001, 161), (161, 721)])
def test_the_later_of_two_equal_steps_counts(kind: str, source: int, target: int, file: Path) -> None:
    SAME[kind](copy(file, source, target))
    report = checked(file)
    assert same(report) == {min(source, target): max(source, target)}
    own = results(report, "own weights")
    assert own.pop(min(source, target)) == "failed"
    assert set(own.values()) == {"passed"}
    assert f"116k@{min(source, target)} has the weights of 116k@{max(source, target)}" in details(
        report, "failed"
    )
    assert not report.refused


def test_two_roundings_of_the_same_weights_are_equal(file: Path) -> None:
    """Neither is what rounding makes of the other: both are of what training kept in 32 bits."""
    random = np.random.default_rng(4)
    exact = {
        name: np.asarray(tensor.astype(np.float64) * (1 + random.normal(0, 1e-4, tensor.shape)), np.float32)
        for name, tensor in tensors_of(folder(file, 1001)).items()
    }
    for step, dtype in ((161, torch.bfloat16), (1001, torch.float16)):
        rounded = {name: torch.from_numpy(tensor).to(dtype) for name, tensor in exact.items()}
        save_file(rounded, folder(file, step) / "model.safetensors", metadata={"format": "pt"})
    assert same(checked(file)) == {161: 1001}
    # And of two steps, however near, they are not.
    rounded = {
        name: torch.from_numpy(tensor).to(torch.bfloat16)
        for name, tensor in tensors_of(folder(file, 721)).items()
    }
    save_file(rounded, folder(file, 441) / "model.safetensors", metadata={"format": "pt"})
    assert same(checked(file)) == {161: 1001, 441: 721}
    save_file(
        {name: t * (1.05 if "mlp" in name else 1) for name, t in rounded.items()},
        folder(file, 441) / "model.safetensors",
        metadata={"format": "pt"},
    )
    assert same(checked(file)) == {161: 1001}


def test_the_sign_of_zero_makes_no_other_weights(file: Path) -> None:
    def with_zeros(zero: float) -> Callable[[Tensors], Tensors]:
        return lambda tensors: {
            name: np.where(np.arange(tensor.size).reshape(tensor.shape) % 3, tensor, tensor.dtype.type(zero))
            for name, tensor in tensors.items()
        }

    rewrite(folder(file, 1001), with_zeros(0.0))
    rewrite(copy(file, 1001, 161), with_zeros(-0.0))
    plain, negative = (tensors_of(folder(file, step)) for step in (1001, 161))
    assert any(plain[name].tobytes() != negative[name].tobytes() for name in plain)
    assert same(checked(file)) == {161: 1001}


@given(pairs=st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from(STEPS)), max_size=4))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_of_every_group_of_equal_steps_one_is_evaluated(
    pairs: list[tuple[int, int]], mini: Suite, tmp_path: Path
) -> None:
    file = own_suite(mini, tmp_path, "116k", STEPS)
    origin = {step: step for step in STEPS}
    for source, target in pairs:
        if source != target:
            copy(file, source, target)
            origin[target] = origin[source]
    latest = {weights: max(s for s in STEPS if origin[s] == weights) for weights in origin.values()}
    expected = {step: latest[origin[step]] for step in STEPS if latest[origin[step]] != step}
    assert same(checked(file)) == expected
    # One checkpoint alone is compared with the steps beside it.
    for step in STEPS:
        alone = same(checked(file, f"116k@{step}"))
        assert alone == ({step: expected[step]} if step in expected else {})


@given(data=st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_one_other_value_makes_other_weights(data: st.DataObject, file: Path) -> None:
    copied = copy(file, 1001, 161)
    tensors = tensors_of(copied)
    name = data.draw(st.sampled_from(sorted(tensors)))
    place = data.draw(st.integers(0, tensors[name].size - 1))
    changed = tensors[name].copy()
    changed.reshape(-1).view(np.uint16)[place] ^= 1
    save({**tensors, name: changed}, copied / "model.safetensors")
    report = checked(file)
    assert same(report) == {}
    # All but one tensor are another step's, which is said.
    assert results(report, "own weights")[161] in ("passed", "warning")
    assert "% of 116k@161 is as in 116k@1001" in details(report, "warning")


def test_gigabytes_are_not_read_to_tell_weights_apart(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> bool:
        raise AssertionError("read whole")

    for read in ("equal_values", "values_digest", "file_digest"):
        monkeypatch.setattr(f"memoserve.engines.weights.contents.{read}", never)
    monkeypatch.setattr("memoserve.run.checks.weights.identity_of", never)
    monkeypatch.setattr("memoserve.run.checks.weights.SMALL", 0)
    report = checked(file)
    assert same(report) == {}
    copy(file, 1001, 161)
    with pytest.raises(AssertionError, match="read whole"):
        checked(file)


def test_pickles_are_compared_as_files(file: Path) -> None:
    for step in STEPS:
        (folder(file, step) / "model.safetensors").rename(folder(file, step) / "pytorch_model.bin")
    suite = load_suite(file)

    def found() -> WeightsReport:
        return check_weights(suite, select(suite, "all"), use=USE, allow_pickle=True)

    assert same(found()) == {}
    copied = copy(file, 1001, 161) / "pytorch_model.bin"
    assert same(found()) == {161: 1001}
    content = bytearray(copied.read_bytes())
    content[9000] ^= 1  # far from both ends
    copied.write_bytes(content)
    assert same(found()) == {}
    assert results(found(), "parameters") == dict.fromkeys(STEPS, "not checked")


def test_what_changes_on_disk_is_read_anew(file: Path) -> None:
    assert same(checked(file)) == {}
    copy(file, 1001, 161)
    assert same(checked(file)) == {161: 1001}


@pytest.mark.parametrize("place", ["equal_steps = [[161, 441], [441, 1001]]", "[[161, 1001]]"])
def test_a_suite_may_declare_steps_equal(place: str, file: Path) -> None:
    copy(file, 1001, 161)
    if place.startswith("equal"):
        edit(file, "\n[sequences]", f"{place}\n[sequences]")  # not this pair
        assert same(checked(file)) == {161: 1001}
        edit(file, place, "equal_steps = [[161, 1001]]")
    else:
        edit(file, "\nparameters =", f"\nequal_steps = {place}\nparameters =")
    report = checked(file)
    assert same(report) == {}
    assert results(report, "own weights")[161] == "passed"


def test_equal_weights_under_another_configuration_are_said(file: Path) -> None:
    edit_config(copy(file, 1001, 161), use_parallel_residual=False)
    report = checked(file)
    assert same(report) == {}
    assert "116k@161 has the weights of 116k@1001, with another config.json" in details(report, "warning")


def test_a_step_of_another_configuration_is_said(file: Path) -> None:
    """Nothing else may see it: the model computes, a little worse."""
    edit_config(folder(file, 441), rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    report = checked(file)
    assert not report.refused
    assert results(report, "configuration") == {161: "passed", 441: "warning", 721: "passed", 1001: "passed"}
    assert "rope_theta" in details(report, "warning")
    assert "116k@1001" in details(report, "warning")


@pytest.mark.parametrize(
    ("stated", "result"), [(0, "passed"), ([5, 0], "passed"), (7, "warning"), (None, "passed")]
)
def test_another_end_of_text_is_said(stated: object, result: str, file: Path) -> None:
    for step in STEPS:
        edit_config(folder(file, step), eos_token_id=stated)
    assert set(results(checked(file), "end-of-text token").values()) == {result}


@pytest.mark.parametrize(
    ("change", "result"),
    [
        (("batch_size = 32", "batch_size = 64"), "failed"),
        (("batch_size = 32", "batch_size = 16"), "warning"),
        (("trained = 32032", "trained = 30000"), "failed"),  # then held-out sequences are trained ones
        (("trained = 32032", "trained = 32020"), "passed"),  # the last batch was not full
    ],
)
def test_a_suite_that_contradicts_itself_is_refused(
    change: tuple[str, str], result: str, file: Path, cli: Cli
) -> None:
    edit(file, *change)
    found = json.loads(
        cli("suite", "check", file, "--format", "json", code=3 if result == "failed" else 0).stdout
    )
    (check,) = [check for check in found if check["name"] == "training length"]
    assert check["result"] == result
    run = (
        "run",
        "--suite",
        file,
        "--engine",
        "transformers",
        "--sequences",
        "0:10",
        "--out",
        "out",
        "--dry-run",
    )
    assert ("training length" in cli(*run, code=3 if result == "failed" else 0).stderr) == (
        result == "failed"
    )


def test_equal_weights_of_two_models_are_said(file: Path) -> None:
    text = file.read_text()
    model = text[text.index("[[models]]") :]
    file.write_text(text + model.replace('"116k"', '"twin"').replace("weights/", "twin/"))
    shutil.copytree(file.parent / "weights", file.parent / "twin")
    report = checked(file)
    assert same(report) == {}
    assert "116k@161 has the weights of another model, twin@161" in details(report, "warning")


def mix(file: Path, source: int, target: int) -> None:
    """Give the first of three files of one step to another."""
    for step in (source, target):
        files = reshard(folder(file, step), 3)
    shutil.copy(folder(file, source) / files[0], folder(file, target) / files[0])


def test_a_part_of_another_step_is_said_and_fails_where_it_is_reported(file: Path) -> None:
    mix(file, 1001, 441)
    report = checked(file)
    assert results(report, "own weights")[441] == "warning"
    assert "% of 116k@441 is as in 116k@1001" in details(report, "warning")
    assert not report.refused
    defect = (
        '\n[[defects]]\nmodel = "116k"\nsteps = [441, 721]\nkind = "chimera"\nof = 1001\nsource = "issue 9"\n'
    )
    file.write_text(file.read_text() + defect)
    report = checked(file)
    assert [checkpoint.step for checkpoint in report.refused] == [441]
    assert results(report, "reported defect") == {441: "failed", 721: "passed"}
    assert "others reported (issue 9): so it is" in details(report, "failed")


def test_reports_are_held_against_the_weights(file: Path) -> None:
    copy(file, 1001, 161)
    for number, (kind, steps, of) in enumerate(
        (
            ("weights of another step", [161, 441], "of = 1001"),
            ("weights of another step", [161, 721], 'of = "main"'),
            ("equal steps", [161, 1001], ""),
            ("suspect", [441], ""),
            ("missing", [441], ""),
        )
    ):
        defect = f'\n[[defects]]\nsteps = {steps}\nkind = "{kind}"\n{of}\nsource = "report {number}"\n'
        file.write_text(file.read_text() + defect)
    found = {
        (check.step, check.detail.partition("(report ")[2][0]): check.result
        for check in checked(file).checks
        if check.name == "reported defect"
    }
    assert found == {
        (161, "0"): "failed",
        (441, "0"): "passed",
        (161, "1"): "failed",  # on disk the last step stands for a branch
        (721, "1"): "passed",
        (161, "2"): "failed",
        (1001, "2"): "failed",
        (441, "3"): "not checked",
        (441, "4"): "passed",
    }


# ------------------------------------------------------------------------------------ what a store holds


def test_weights_that_a_store_has_under_another_step_are_said(file: Path) -> None:
    suite = load_suite(file)
    scored = {("116k", 161): fetch_weights(select(suite, "116k@161")[0]).identity}
    assert same(checked(file, "116k@161,116k@441", stored=scored)) == {}
    # The folders of two steps are exchanged after one of them was evaluated.
    parked = file.parent / "parked"
    folder(file, 161).rename(parked)
    folder(file, 441).rename(folder(file, 161))
    parked.rename(folder(file, 441))
    report = checked(file, "116k@441", stored=scored)
    assert same(report) == {161: 441}
    assert "116k@441 has the weights that the store's scores of 116k@161 were made with" in details(
        report, "failed"
    )
    # The other one is gone since.
    shutil.rmtree(folder(file, 161))
    assert same(checked(file, "116k@441", stored=scored)) == {161: 441}


def test_scores_made_with_the_weights_of_a_later_step_are_said(file: Path) -> None:
    copy(file, 1001, 161)
    scored = {("116k", 161): fetch_weights(select(load_suite(file), "116k@161")[0]).identity}
    report = checked(file, "116k@1001", stored=scored)
    assert same(report) == {161: 1001}
    assert "the store's scores of 116k@161 were made with the weights of 116k@1001" in details(
        report, "failed"
    )


# ---------------------------------------------------------------------------------------- order of steps


@pytest.mark.parametrize("model", ["116k", "1.2m"])
def test_any_two_exchanged_steps_are_said(model: str, mini: Suite, tmp_path: Path) -> None:
    file = own_suite(mini, tmp_path, model, list(mini.steps))
    assert results(checked(file), "step order") == {None: "passed"}
    parked = tmp_path / "parked"
    for one, other in itertools.combinations(mini.steps, 2):
        for _ in range(2):  # there, and back again
            folder(file, one).rename(parked)
            folder(file, other).rename(folder(file, one))
            parked.rename(folder(file, other))
            if not _:
                assert results(checked(file), "step order") == {None: "warning"}, (one, other)


# --------------------------------------------------------------------------------- as the suite says it


def only(file: Path, use: Use = USE) -> list[Check]:
    """What failed of 116k@1001; it must be refused for it."""
    report = checked(file, "116k@1001", use)
    failed = [check for check in report.checks if check.result == "failed"]
    assert [checkpoint.step for checkpoint in report.refused] == ([1001] if failed else [])
    return failed


@pytest.mark.parametrize(
    ("old", "new", "name", "both"),
    [
        ("parameters = 116416", "parameters = 787", "parameters", ("116,416", "787")),
        ("parameters = 116416", "parameters = 114000", "parameters", ("116,416", "114,000")),
        ("parameters = 116416", "parameters = 118000", "parameters", ("116,416", "118,000")),
        ("embeddings = 50880", "embeddings = 51500", "parameters without embeddings", ("50,880", "51,500")),
        ("embeddings = 50880", "embeddings = 116416", "parameters without embeddings", ("50,880", "116,416")),
        ("eos_token_id = 0", "eos_token_id = 1024", "end-of-text token", ("1,024", "1024")),
    ],
)
def test_a_suite_that_says_otherwise_is_refused(
    old: str, new: str, name: str, both: tuple[str, str], file: Path
) -> None:
    edit(file, old, new)
    (failed,) = only(file)
    assert failed.name == name
    assert all(number in failed.detail for number in both)
    assert bool(checked(file).stops) == (name == "end-of-text token")


@pytest.mark.parametrize("stated", [116_416 - 1_100, 116_415, 116_417, 116_416 + 1_100])
def test_a_count_that_is_hardly_off_is_said(stated: int, file: Path) -> None:
    edit(file, "parameters = 116416", f"parameters = {stated}")
    assert only(file) == []
    assert f"the files hold 116,416 parameters, and the suite says parameters = {stated:,}" in details(
        checked(file), "warning"
    )


def test_tied_embeddings_and_buffers_count_once_or_not_at_all(file: Path) -> None:
    def tie(tensors: Tensors) -> Tensors:
        return {**with_masks(tensors), "embed_out.weight": tensors["gpt_neox.embed_in.weight"]}

    for step in STEPS:
        rewrite(folder(file, step), tie)
        edit_config(folder(file, step), tie_word_embeddings=True)
    edit(file, "parameters = 116416", f"parameters = {116_416 - 1024 * 32}")
    assert only(file) == []
    config = json.loads((folder(file, 1001) / "config.json").read_text())
    del config["tie_word_embeddings"]
    (folder(file, 1001) / "config.json").write_text(json.dumps(config))
    assert only(file) == []


def misread(dtype: str) -> Callable[[Path], object]:
    """Give all tensors another type of the same width, in the header alone."""

    def relabel(folder: Path) -> None:
        content = (folder / "model.safetensors").read_bytes()
        assert content.count(b'"F16"')
        length = int.from_bytes(content[:8], "little")
        header = content[8 : 8 + length].replace(b'"F16"', f'"{dtype}"'.encode())
        (folder / "model.safetensors").write_bytes(
            len(header).to_bytes(8, "little") + header + content[8 + length :]
        )

    return relabel


def bfloat16_as_float16(folder: Path) -> None:
    def relabel(tensors: Tensors) -> Tensors:
        return {
            name: (tensor.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.float16)
            for name, tensor in tensors.items()
        }

    rewrite(folder, relabel)


def one_misread(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    place = content.index(b'"F16"', 1500)
    length = int.from_bytes(content[:8], "little")
    header = content[8:place] + b'"BF16"' + content[place + 5 : 8 + length]
    (folder / "model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + content[8 + length :]
    )


def poisoned(value: float) -> Callable[[Path], object]:
    def poison(tensors: Tensors) -> Tensors:
        name = "gpt_neox.final_layer_norm.weight"
        return {**tensors, name: np.full_like(tensors[name], value)}

    return lambda folder: rewrite(folder, poison)


def zeroed(name: str) -> Callable[[Path], object]:
    return lambda folder: rewrite(folder, lambda ts: {**ts, name: np.zeros_like(ts[name])})


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda f: edit_config(f, vocab_size=1000), "vocabulary"),
        (lambda f: edit_config(f, vocab_size="many"), "vocabulary"),
        (lambda f: edit_config(f, num_hidden_layers=3), "layers"),
        (lambda f: edit_config(f, num_hidden_layers=5), "layers"),
        (lambda f: edit_config(f, max_position_embeddings=63), "longest sequence"),
        (lambda f: edit_config(f, num_attention_heads=2), "head size"),
        (lambda f: edit_config(f, num_attention_heads="many"), "weight files"),
        (lambda f: edit_config(f, max_position_embeddings="many"), "weight files"),
        (misread("BF16"), "weight values"),
        (misread("I16"), "weight values"),
        (misread("U16"), "weight values"),
        (bfloat16_as_float16, "weight values"),
        (one_misread, "weight values"),
        (poisoned(np.nan), "weight values"),
        (poisoned(np.inf), "weight values"),
        (zeroed("gpt_neox.layers.1.mlp.dense_4h_to_h.weight"), "weight values"),
        (zeroed("embed_out.weight"), "weight values"),
    ],
)
def test_a_folder_that_says_otherwise_is_refused(
    change: Callable[[Path], object], name: str, file: Path
) -> None:
    change(folder(file, 1001))
    assert [failed.name for failed in only(file)] == [name]


def test_a_matrix_that_stands_for_two_is_said(file: Path) -> None:
    one, other = (f"gpt_neox.layers.{layer}.mlp.dense_h_to_4h.weight" for layer in (1, 3))
    rewrite(folder(file, 721), lambda tensors: {**tensors, one: tensors[other]})
    report = checked(file)
    assert results(report, "weight values") == {161: "passed", 441: "passed", 721: "warning", 1001: "passed"}
    assert one in details(report, "warning")
    assert other in details(report, "warning")


def test_embeddings_that_differ_are_two_whatever_the_configuration_says(file: Path) -> None:
    """Engines take the two that the files hold."""
    edit_config(folder(file, 1001), tie_word_embeddings=True)
    assert only(file) == []
    edit(file, "parameters = 116416", f"parameters = {116416 - 32768}")
    assert "parameters" in [failed.name for failed in only(file)]


def test_a_longer_context_than_the_model_takes_is_refused(file: Path) -> None:
    assert only(file, Use("vllm", "cpu", 64)) == []
    (failed,) = only(file, Use("vllm", "cpu", 65))
    assert "use a shorter --context" in failed.detail


def test_heads_that_vllm_has_no_attention_for_are_offered_the_other_engine(file: Path) -> None:
    edit_config(folder(file, 1001), num_attention_heads=2)
    (failed,) = only(file)
    assert "use --engine transformers" in failed.detail
    assert only(file, Use("transformers", "cpu", 32)) == []
    assert only(file, Use("vllm", "cuda", 32)) == []
    assert unsupported_head_size({"hidden_size": 2560, "num_attention_heads": 32}, "cpu") is None
    assert unsupported_head_size({"head_dim": 72, "hidden_size": 64, "num_attention_heads": 1}, "cpu")


@pytest.mark.engine
def test_the_head_sizes_are_those_of_the_installed_vllm() -> None:
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    assert tuple(CPUAttentionBackend.get_supported_head_sizes()) == CPU_HEAD_SIZES


@pytest.mark.parametrize("number", range(40))
def test_any_dropped_tensor_changes_the_count(number: int, mini: Suite, file: Path) -> None:
    """Of the smallest tensors too, though they are below what a budget notices."""
    tensors = tensors_of(folder(file, 1001))
    name = sorted(tensors)[number % len(tensors)]
    del tensors[name]
    save(tensors, folder(file, 1001) / "model.safetensors")
    assert {results(checked(file), "parameters")[1001]} <= {"warning", "failed"}


# ----------------------------------------------------------------------------------- the command line


def test_mini_is_what_it_says_it_is(cli: Cli) -> None:
    said = cli("suite", "check", "mini").stdout
    assert said.startswith("reads headers and sampled blocks of the weights of 28 checkpoints")
    assert "failed" not in said
    assert "warning" not in said


def test_the_command_says_what_failed_and_what_to_do(cli: Cli, file: Path) -> None:
    copy(file, 1001, 161)
    (folder(file, 441) / "model.safetensors").write_bytes(b"")
    result = cli("suite", "check", file, code=3)
    said = " ".join(result.stdout.split())
    assert "116k@161 has the weights of 116k@1001" in said
    assert "it is empty" in said
    assert "checks failed" in result.stderr

    result = cli("suite", "check", file, "--checkpoints", "116k@721", "--format", "json")
    checks = json.loads(result.stdout)
    assert {check["subject"] for check in checks if check["model"]} == {"116k@721", "116k"}
    assert {check["result"] for check in checks} <= {"passed", "not checked"}
    assert "reads headers" in result.stderr


def test_names_of_others_do_nothing_to_a_terminal(cli: Cli, file: Path) -> None:
    (folder(file, 161) / "\x1b[31m.safetensors").write_bytes(b"x")
    assert "\x1b[31m" not in cli("suite", "check", file).stdout
