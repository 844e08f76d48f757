"""What an engine makes of weights that aren't whole, aren't finite, aren't those that it was given."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as settings_for_hypothesis
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tiny_models import logliks, make, windows

from memoserve.engines import EngineProcess, EngineSettings, NotFinite, tune, unsupported_head_size
from memoserve.engines.child import in_short
from memoserve.engines.weights.config_identity import config_identity
from memoserve.errors import EngineFailed

pytestmark = pytest.mark.thorough


def settings(engine: str, **changes: object) -> EngineSettings:
    return EngineSettings(
        **{  # type: ignore[arg-type]
            "engine": engine,
            "mode": "extract",
            "context": 32,
            "dtype": "float32",
            "banned_token_id": 0,
            "device": "cpu",
            "loglik": True,
            **changes,
        }
    )


def changed(folder: Path, place: Path, change: Mapping[str, NDArray[np.float32] | None]) -> Path:
    """A copy of a model with some tensors replaced, or left out."""
    shutil.copytree(folder, place)
    tensors = {**load_file(place / "model.safetensors"), **change}
    kept = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, place / "model.safetensors", metadata={"format": "pt"})
    return place


@pytest.fixture(scope="module")
def neox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("gpt_neox", tmp_path_factory.mktemp("neox") / "model")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("llama", tmp_path_factory.mktemp("llama") / "model", tied=True)


# ------------------------------------------------------------------------------ really in the engine

STALE = """
import sys
from pathlib import Path
from memoserve.engines.vllm import products
from memoserve.engines.settings import EngineSettings
from memoserve.engines.vllm.engine import VllmEngine

engine = VllmEngine(EngineSettings("vllm", "extract", 32, sys.argv[3], 0, "cpu"), Path(sys.argv[1]))
products.multiply_anew = lambda model: None  # as vLLM has it
try:
    engine.load(Path(sys.argv[2]))
except Exception as error:
    print("FOUND", type(error).__name__, error)
"""


@pytest.mark.engine
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_packed_copy_that_was_left_behind_is_found_out(llama: Path, tmp_path: Path, dtype: str) -> None:
    """The tied LM head of another checkpoint that differs by a thousandth: the parameters are all new."""
    import os
    import subprocess
    import sys

    tensors = load_file(llama / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    noise = np.random.default_rng(1).normal(size=embedding.shape).astype(np.float32)
    near = changed(llama, tmp_path / "near", {"model.embed_tokens.weight": embedding * (1 + 1e-3 * noise)})
    script = tmp_path / "stale.py"
    script.write_text(STALE)
    result = subprocess.run(
        [sys.executable, str(script), str(llama), str(near), dtype],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MEMOSERVE_CPU_PRODUCTS": "packed"},
    )
    assert "FOUND EngineFailed the engine does not multiply" in result.stdout, result.stderr[-2000:]
    assert "lm_head" in result.stdout


@settings_for_hypothesis(deadline=None, max_examples=30)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from(["float32", "bfloat16", "float16"]),
    st.integers(0, 1 << 30),
)
def test_known_vectors_tell_products_apart(out: int, size: int, dtype: str, seed: int) -> None:
    import torch

    from memoserve.engines.vllm.products import Known

    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, size, generator=generator).to(getattr(torch, dtype))
    known = Known.of(weight)
    assert known.agrees(lambda x: torch.nn.functional.linear(x, weight), size)
    assert known.agrees(lambda x: torch.nn.functional.linear(x.double(), weight.double()).to(x.dtype), size)
    stale = weight.clone()
    row = int(torch.randint(0, out, (1,), generator=generator))
    stale[row] = torch.randn(size, generator=generator).to(weight.dtype)
    assert not known.agrees(lambda x: torch.nn.functional.linear(x, stale), size)


@pytest.mark.engine
def test_an_engine_keeps_to_the_configuration_it_was_started_with(neox: Path, tmp_path: Path) -> None:
    rows = windows(8)
    other = make("gpt_neox", tmp_path / "other", changes={"use_parallel_residual": False})
    engine = EngineProcess(settings("vllm"), neox, tmp_path / "log")
    try:
        with pytest.raises(EngineFailed, match="use_parallel_residual: True is False here"):
            engine.load(other)
    finally:
        engine.close()
    reference = EngineProcess(settings("transformers"), neox, tmp_path / "log")
    try:
        reference.load(other)
        np.testing.assert_allclose(reference.logliks(rows), logliks(other, rows), rtol=0, atol=1e-3)
    finally:
        reference.close()


def test_the_identity_of_a_configuration_is_what_shapes_results(tmp_path: Path) -> None:
    config = {
        "hidden_size": 64,
        "rope_theta": 10000.0,
        "use_cache": True,
        "transformers_version": "4.1",
        "torch_dtype": "float16",
        "eos_token_id": 0,
        "text_config": {"rms_norm_eps": 1e-5, "dtype": "float16"},
    }

    def identity(**changes: object) -> str:
        (tmp_path / "config.json").write_text(json.dumps(dict(reversed({**config, **changes}.items()))))
        return config_identity(tmp_path)

    (tmp_path / "config.json").write_text(json.dumps(config, indent=2))
    plain = config_identity(tmp_path)
    same = {"use_cache": False, "transformers_version": "5", "torch_dtype": "float32", "_name_or_path": "x"}
    assert identity() == identity(**same) == plain
    assert identity(text_config={"rms_norm_eps": 1e-5, "dtype": "float32"}) == plain
    assert identity(text_config={"rms_norm_eps": 1e-6, "dtype": "float16"}) != plain
    for other in ({"rope_theta": 1e6}, {"sliding_window": 8}, {"nobody_knows_it": 1}):
        assert identity(**other) != plain
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(EngineFailed, match="can't be read"):
        config_identity(tmp_path)


# ------------------------------------------------------------------------------ complete


@pytest.mark.engine
@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_missing_and_misshapen_tensors_fail_by_name(engine: str, neox: Path, tmp_path: Path) -> None:
    """At a start and at a switch, whichever tensor it is."""
    tensors = load_file(neox / "model.safetensors")
    names = sorted(tensors)
    process = EngineProcess(settings(engine), neox, tmp_path / "log")
    try:
        for number, name in enumerate(names):
            lacks = changed(neox, tmp_path / f"lacks-{number}", {name: None, "strange.weight": tensors[name]})
            with pytest.raises(EngineFailed) as caught:
                process.load(lacks)
            assert name in str(caught.value)
            assert "strange.weight" in str(caught.value)
        longer = np.concatenate([tensors[names[0]]] * 2)
        misshapen = changed(neox, tmp_path / "misshapen", {names[0]: longer})
        with pytest.raises(EngineFailed, match="have another shape") as caught:
            process.load(misshapen)
        assert names[0] in str(caught.value)
        # Buffers of older exports and what nobody wants don't stand in the way; the latter is said.
        extra = {
            "gpt_neox.layers.0.attention.masked_bias": np.array([-1e9], np.float32),
            "gpt_neox.layers.0.attention.rotary_emb.inv_freq": np.ones(4, np.float32),
        }
        process.load(changed(neox, tmp_path / "older", extra))
        assert process.proved()[0].result == "passed"
        process.load(changed(neox, tmp_path / "stray", {"strange.weight": np.ones(4, np.float32)}))
        assert process.proved()[0].result == "warning"
        assert "strange.weight" in process.proved()[0].detail
    finally:
        process.close()
    process = EngineProcess(settings(engine), tmp_path / "lacks-0", tmp_path / "log")
    try:
        with pytest.raises(EngineFailed, match="lack 1 tensor"):
            process.wait_until_up()
    finally:
        process.close()


@pytest.mark.engine
@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_biases_that_the_configuration_leaves_out_fail_by_name(
    engine: str, llama: Path, tmp_path: Path
) -> None:
    """Both engines would compute without them, and agree."""
    bias = {"model.layers.0.self_attn.q_proj.bias": np.ones(64, np.float32)}
    process = EngineProcess(settings(engine), changed(llama, tmp_path / "biased", bias), tmp_path / "log")
    try:
        with pytest.raises(EngineFailed, match=r"q_proj\.bias.*no bias by config\.json"):
            process.wait_until_up()
    finally:
        process.close()


# ------------------------------------------------------------------------------ finite


@pytest.mark.engine
@pytest.mark.parametrize(
    ("engine", "mode"), [("vllm", "extract"), ("vllm", "score"), ("transformers", "score")]
)
def test_poisoned_weights_never_become_results(engine: str, mode: str, neox: Path, tmp_path: Path) -> None:
    rows = windows(8)
    tensors = load_file(neox / "model.safetensors")
    process = EngineProcess(settings(engine, mode=mode, loglik=False), neox, tmp_path / "log")
    plain = process.evaluate(rows).matched_prefix
    number = 0

    @settings_for_hypothesis(
        deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(st.sampled_from(sorted(tensors)), st.floats(0, 0.999), st.sampled_from([np.nan, np.inf, -np.inf]))
    @example("embed_out.weight", 0.0, np.nan)
    @example("embed_out.weight", 0.7, -np.inf)
    @example("gpt_neox.layers.0.input_layernorm.bias", 0.5, -np.inf)
    def poison(name: str, at: float, value: float) -> None:
        nonlocal number
        number += 1
        tensor = tensors[name].copy()
        tensor.flat[int(at * tensor.size)] = value
        place = changed(neox, tmp_path / str(number), {name: tensor})
        said = ""
        try:
            process.load(place)
            found = process.evaluate(rows).matched_prefix
        except EngineFailed as error:
            said = str(error)
        if not said:
            np.testing.assert_array_equal(found, plain)
        else:
            assert "not finite" in said
            assert "the end of" not in said, "its message says it all"

    try:
        poison()
    finally:
        process.close()


@pytest.mark.engine
@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
@pytest.mark.parametrize("mode", ["extract", "score"])
@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_logits_that_overflow_fail_with_the_number_of_the_window(
    family: str, mode: str, engine: str, tmp_path: Path
) -> None:
    """Weights that are finite, and a product that isn't."""
    folder = make(family, tmp_path / "model")
    name = {"gpt_neox": "gpt_neox.final_layer_norm.weight", "llama": "model.norm.weight"}[family]
    norm = load_file(folder / "model.safetensors")[name]
    huge = changed(folder, tmp_path / "huge", {name: np.full_like(norm, 3e38)})
    process = EngineProcess(settings(engine, mode=mode, loglik=False), huge, tmp_path / "log")
    try:
        with pytest.raises(EngineFailed, match="not finite") as caught:
            process.evaluate(windows(40))
        # vLLM's scheduler decodes in an order of its own.
        where = (
            "a window" if (engine, mode, family) == ("vllm", "score", "llama") else "window 0 of the block"
        )
        assert where in str(caught.value)
    finally:
        process.close()


@settings_for_hypothesis(deadline=None, max_examples=50)
@given(
    st.integers(1, 30),
    st.data(),
    st.sampled_from([np.nan, np.inf, "row of -inf"]),
    st.sampled_from([None, 0, 3]),
    st.booleans(),
)
def test_the_first_row_that_is_not_finite_is_named(
    rows: int, data: st.DataObject, value: float | str, banned: int | None, loglik: bool
) -> None:
    """Also where the only such number is that of the banned token."""
    import torch

    from memoserve.engines.vllm import logits

    numbers = torch.randn(rows, 9)
    at = data.draw(st.integers(0, rows - 1))
    if isinstance(value, str):
        numbers[at] = -torch.inf
    else:
        numbers[at:, data.draw(st.integers(0, 8))] = value
    truth = torch.zeros(rows, dtype=torch.int64) if loglik else None
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(logits, "LOGITS_PER_SLICE", 9 * data.draw(st.integers(1, 31)))
    with monkeypatch.context(), pytest.raises(NotFinite) as caught:
        logits.best_tokens(
            lambda hidden: numbers[hidden[:, 0]].clone(), torch.arange(rows)[:, None], 9, banned, truth
        )
    monkeypatch.undo()
    assert caught.value.row == at
    # And -inf alone, as of words that pad a vocabulary, is fine.
    fine = torch.randn(rows, 9)
    fine[:, 5] = -torch.inf
    best, _ = logits.best_tokens(lambda hidden: fine.clone(), torch.zeros(rows, 1), 9, banned)
    assert (best != 5).all()


# ------------------------------------------------------------------------------ shapes, crashes, ways


@pytest.mark.engine
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_quarter_of_a_head_of_80_is_rotated(dtype: str, tmp_path: Path) -> None:
    """Pythia 2.8b's heads; vLLM's kernel is a segmentation fault there."""
    folder = make("gpt_neox", tmp_path / "model", changes={"hidden_size": 160, "intermediate_size": 320})
    rows = windows(12)
    expected = logliks(folder, rows, dtype)
    process = EngineProcess(settings("vllm", dtype=dtype), folder, tmp_path / "log")
    try:
        found = process.logliks(rows)
    finally:
        process.close()
    # As between the engines elsewhere in 16 bit; without any rotation it is several nats more.
    np.testing.assert_allclose(found, expected, rtol=0, atol=4.0 if dtype == "bfloat16" else 0.5)


ROTATED = """
import sys, torch
from vllm.config import VllmConfig, set_current_vllm_config
from memoserve.engines.vllm import rotary
with set_current_vllm_config(VllmConfig()):
    kernel = rotary.RotaryEmbedding
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for head, rotated in ((64, 16), (64, 64), (128, 32), (80, 80), (96, 48)):
            assert rotary.kernel_takes(head, rotated, dtype)
            layer = kernel(head, rotated, 128, 10000.0, True, dtype)
            torch.manual_seed(head)
            states = torch.randn(50, 2 * head).to(dtype)
            positions = torch.randint(0, 128, (50,))
            expected, _ = rotary._by_kernel(layer, positions, states.clone(), states.clone())
            found = rotary.rotate(positions, states.clone(), head, layer.cos_sin_cache)
            # The kernel multiplies and adds at once: half a unit of float32 before rounding.
            gap = (found.float() - expected.float()).abs() / expected.float().abs().clamp(min=1)
            assert gap.max() <= 2 * torch.finfo(dtype).eps, (dtype, head, rotated, gap.max())
            if dtype.itemsize == 2:
                assert (found == expected).float().mean() > 0.98, (dtype, head, rotated)
print("SAME", rotary.kernel_takes(80, 20, torch.bfloat16), rotary.kernel_takes(80, 20, torch.float32))
"""


@pytest.mark.engine
def test_torch_rotates_as_vllms_kernel_does_where_that_can() -> None:
    import subprocess
    import sys

    result = subprocess.run([sys.executable, "-c", ROTATED], capture_output=True, text=True, check=False)
    assert "SAME False True" in result.stdout, result.stderr[-3000:]


def test_a_crash_is_shown_by_its_first_line(tmp_path: Path) -> None:
    noise = [f"  File '{number}', in f" for number in range(50)]
    crash = "!!!!!!! Segfault encountered !!!!!!!"
    said = in_short(["WARNING all is well", "ValueError: before", crash, *noise], tmp_path / "log")
    assert crash in said
    assert "ValueError" not in said
    assert "File '49'" in said
    assert "File '41'" not in said
    said = in_short(
        [*noise, "RuntimeError: the first", *noise, "EngineError: the last", *noise], tmp_path / "log"
    )
    assert "RuntimeError: the first" in said
    assert "the last" not in said
    assert in_short(["one", "two"], tmp_path / "log").count("\n") == 2
    assert in_short([], tmp_path / "log")


@pytest.mark.engine
def test_the_log_of_a_crash_is_of_this_engine(neox: Path, tmp_path: Path) -> None:
    """What an earlier engine left in the same file isn't told again."""
    import os
    import signal

    log = tmp_path / "log"
    log.write_text("Fatal Python error: of long ago\n")
    engine = EngineProcess(settings("transformers"), neox, log)
    engine.wait_until_up()
    os.kill(engine._process.pid, signal.SIGSEGV)
    with pytest.raises(EngineFailed, match="SIGSEGV") as caught:
        engine.evaluate(windows(4))
    engine.close()
    assert "long ago" not in str(caught.value)


def test_head_sizes_that_a_cpu_cannot_run_are_refused_before_a_start() -> None:
    sizes = {"hidden_size": 96, "num_attention_heads": 2}
    assert "48 numbers wide" in str(unsupported_head_size(sizes, "cpu"))
    assert unsupported_head_size(sizes, "cuda") is None
    assert unsupported_head_size({**sizes, "head_dim": 64}, "cpu") is None
    assert unsupported_head_size({"n_embd": 768, "n_head": 12}, "cpu") is None
    assert "24 numbers" in str(unsupported_head_size({"text_config": {"head_dim": 24}}, "cpu"))
    assert unsupported_head_size({"kv_lora_rank": 8, **sizes}, "cpu") is None
    assert unsupported_head_size({}, "cpu") is None


@pytest.mark.engine
def test_the_head_sizes_are_those_that_vllm_says() -> None:
    import subprocess
    import sys

    code = (
        "from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend as backend\n"
        "print('SIZES', *backend.get_supported_head_sizes())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("SIZES")]
    from memoserve.engines.vllm.heads import CPU_HEAD_SIZES

    assert tuple(map(int, line.split()[1:])) == CPU_HEAD_SIZES


def test_the_way_of_multiplying_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"architectures": ["GPTNeoXForCausalLM"], "num_hidden_layers": 2, "hidden_size": 64}

    def products(dtype: str) -> tuple[str, str]:
        (found,) = [s for s in tune(settings("vllm", dtype=dtype), config).settings if s.name == "products"]
        return found.value, found.reason

    for dtype in ("float32", "bfloat16", "float16"):
        monkeypatch.setenv("MEMOSERVE_CPU_PRODUCTS", "packed")
        assert products(dtype) == (f"{dtype}, packed", "MEMOSERVE_CPU_PRODUCTS says so")
        monkeypatch.setenv("MEMOSERVE_CPU_PRODUCTS", "torch")
        assert products(dtype) == ("float32, by torch", "MEMOSERVE_CPU_PRODUCTS says so")
        monkeypatch.delenv("MEMOSERVE_CPU_PRODUCTS")
        assert "says so" not in products(dtype)[1]
    monkeypatch.setenv("MEMOSERVE_CPU_PRODUCTS", "fast")
    with pytest.raises(EngineFailed, match="MEMOSERVE_CPU_PRODUCTS"):
        products("float32")
