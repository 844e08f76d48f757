"""Do these files hold what the model wants? Names and shapes, by Transformers' own loading on no memory.

The model is built on torch's meta device from its config.json, and the headers of the files are loaded into
it: with Transformers' own rules for names, whatever an engine makes of the same files.

Imported inside an engine process only.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memoserve.checks import Check
from memoserve.engines.weights.parameters import NOT_A_PARAMETER
from memoserve.errors import EngineFailed

log = logging.getLogger("memoserve.engines.weights.complete")

COMPLETE = "weights complete"
"""The name of the check."""

_NAMED = 6


@dataclass(frozen=True)
class Found:
    """missing: tensors that the model wants and no file has. misshapen: name, shape in the file, shape that
    the model wants. unexpected: tensors in files that the model doesn't know. ignored: these, and others that
    it is known to leave alone, such as buffers of older exports. left_out: of the unexpected ones, biases of
    layers that the model has, and that config.json says have none: without them it is another model.
    """

    missing: tuple[str, ...]
    misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    unexpected: tuple[str, ...]
    ignored: frozenset[str] = frozenset()
    left_out: tuple[str, ...] = ()

    @staticmethod
    def of(model: Any, loading_info: Mapping[str, Iterable[Any]], ignored: Iterable[str] = ()) -> Found:
        """What Transformers says of loading `model`, by the names that its files have."""
        unexpected = tuple(
            name for name in sorted(loading_info["unexpected_keys"]) if not NOT_A_PARAMETER.search(name)
        )
        layers = {name.rpartition(".")[0] for name, _ in model.named_parameters(remove_duplicate=False)}
        return Found(
            tuple(sorted(_name_in_files(model, name) for name in loading_info["missing_keys"])),
            tuple(
                sorted(
                    (_name_in_files(model, name), tuple(have), tuple(want))
                    for name, have, want in loading_info["mismatched_keys"]
                )
            ),
            unexpected,
            frozenset(ignored),
            tuple(
                name for name in unexpected if name.endswith(".bias") and name.removesuffix(".bias") in layers
            ),
        )

    def as_check(self) -> Check:
        """What to keep beside the scores, once nothing is missing."""
        if not self.unexpected:
            return Check(COMPLETE, "", "passed", "names and shapes of all tensors are what config.json wants")
        return Check(
            COMPLETE,
            "",
            "warning",
            f"the files hold all that config.json wants, and {_tensors(self.unexpected)} that the"
            " model doesn't know",
            len(self.unexpected),
        )

    def check(self, folder: Path) -> None:
        """Raises EngineFailed, naming tensors, if the model isn't whole."""
        parts = []
        if self.missing:
            parts.append(f"lack {_tensors(self.missing)} that the model wants")
        if self.misshapen:
            parts.append(
                "have another shape than config.json says: "
                + "; ".join(
                    f"{name} is {list(have)}, the model wants {list(want)}"
                    for name, have, want in self.misshapen[:_NAMED]
                )
                + _more(self.misshapen)
            )
        if self.left_out:
            parts.append(f"hold {_tensors(self.left_out)}, of layers that have no bias by config.json")
        if not parts:
            return
        if self.unexpected and not self.left_out:
            parts.append(f"hold {_tensors(self.unexpected)} that the model doesn't know")
        raise EngineFailed(
            f"the weights of {folder} "
            + ", and ".join(parts)
            + ": get the checkpoint again, or its config.json"
        )


class Wanted:
    """The model that a folder's config.json describes, without memory.

    To be made before vLLM is started, which changes Transformers' classes in its process.
    """

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        self._model: Any = None
        self._known: tuple[dict[str, tuple[int, ...]], Found] | None = None
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            with torch.device("meta"):
                self._model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        except Exception as error:  # whatever Transformers can't do must not stop an engine that can
            _not_checked(folder, error)

    def look(self, folder: Path) -> Found | None:
        """What the *.safetensors of a model folder hold, against it. Reads headers only.

        None where Transformers can't say, as for an architecture that it doesn't know.
        """
        import torch
        from safetensors import safe_open

        shapes: dict[str, tuple[int, ...]] = {}
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118  (not a mapping)
                    shapes[name] = tuple(opened.get_slice(name).get_shape())
        if self._model is None or not shapes:
            return None
        if self._known is not None and self._known[0] == shapes:
            return self._known[1]
        try:
            from transformers.conversion_mapping import get_model_conversion_mapping
            from transformers.modeling_utils import LoadStateDictConfig

            model = copy.deepcopy(self._model)
            rules = LoadStateDictConfig(
                ignore_mismatched_sizes=True,
                device_map={"": "meta"},
                dtype=torch.float32,
                dtype_plan={},
                weight_mapping=get_model_conversion_mapping(model, None, None),
            )
            # What AutoModelForCausalLM.from_pretrained does, which wants memory, or the accelerate package.
            tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
            info, _ = type(model)._load_pretrained_model(model, tensors, None, rules)
            ignored = set(info.unexpected_keys)
            model.tie_weights(missing_keys=info.missing_keys, recompute_mapping=False)
            model._adjust_missing_and_unexpected_keys(info)
            found = Found.of(model, info.to_dict(), ignored)
            self._known = shapes, found
            return found
        except Exception as error:
            _not_checked(folder, error)
            return None


def _name_in_files(model: Any, name: str) -> str:
    """What Transformers would call a parameter of `model` in a file; GPT-NeoX's head has two names."""
    try:
        import torch
        from transformers.core_model_loading import revert_weight_conversion

        model._weight_conversions = None  # all of its kind, not just those that this loading used
        (found,) = revert_weight_conversion(model, {name: torch.empty(1, device="meta")})
        return str(found)
    except Exception:  # one of several that are merged on loading: its name in the model has to do
        return name


def _not_checked(folder: Path, error: Exception) -> None:
    log.warning("names and shapes of %s are not checked: %s: %s", folder, type(error).__name__, error)


def _tensors(names: tuple[str, ...]) -> str:
    return f"{len(names)} tensor{'s' * (len(names) > 1)} ({', '.join(names[:_NAMED])}{_more(names)})"


def _more(things: tuple[Any, ...]) -> str:
    return " …" if len(things) > _NAMED else ""
