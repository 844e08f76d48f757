"""What of a model's config.json shapes its results: an engine is started for one of these.

Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from memoserve.errors import EngineFailed

_NOISE = frozenset(
    {
        "_commit_hash",
        "_name_or_path",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "pad_token_id",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
"""How a file was written, and what ends a generation, which nothing does here; whatever else counts."""


def config_identity(folder: Path) -> str:
    """`sha256:…` over what of a model folder's config.json shapes results.

    Equal for files that differ in layout, order or noise only. Raises EngineFailed if it can't be read.
    """
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineFailed(f"{file} can't be read: {error}") from None
    text = json.dumps(_essence(config), sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def changed_fields(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """`name: 1 is 2 here` for each field of two configurations that differs and shapes results."""
    old, new = _essence(before), _essence(after)
    return [
        f"{name}: {old.get(name)} is {new.get(name)} here"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _essence(config: Any) -> Any:
    """Without noise, in parts of it too, such as `text_config`."""
    if isinstance(config, dict):
        return {name: _essence(value) for name, value in config.items() if name not in _NOISE}
    return [_essence(value) for value in config] if isinstance(config, list) else config
