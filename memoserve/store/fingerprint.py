"""The fingerprint of a suite's runs: what their scores have in common, or could not stand in one store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

Fingerprint = Mapping[str, str | int | None]

_CHECKSUM = "checksum"
_NOT_THERE = "(not there)"

KNOWN = frozenset(
    {
        "suite",
        "eos",
        "eos_token_id",
        "sample",
        "context",
        "continuation",
        "mode",
        "loglik",
        "deterministic",
        "engine",
        "engine_version",
        "dtype",
    }
)
"""The keys that every run of format 1 has, beside SEQUENCES_PREFIX + what identifies its sequences."""

SEQUENCES_PREFIX = "sequences_"

WHEN_ABSENT: Mapping[str, str | int | None] = {
    # Scores that were imported say neither: nothing was measured beyond what is memorized.
    "loglik": 0,
    "deterministic": 0,
    "sample": None,
    # A sequence shorter than a window stopped the run.
    "short_sequences": None,
}
"""What it means if a fingerprint lacks a key. A key that runs begin to write is added here with what all
runs before it did, so that their stores can be continued."""


def differences(stored: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line for each key on which two fingerprints differ, a key that one lacks being WHEN_ABSENT's."""
    lines = []
    for key in sorted({*stored, *new}):
        absent = WHEN_ABSENT.get(key, _NOT_THERE)
        before, now = stored.get(key, absent), new.get(key, absent)
        if before != now:
            lines.append(f"  {key}: {before} vs {now}")
    return lines


OF_ENGINE = frozenset({"mode", "context", "loglik", "deterministic", "engine", "engine_version", "dtype"})
"""The keys that say how scores are computed, not of which data: free to change while there is no score."""


def unknown_keys(stored: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys of a stored fingerprint that mean nothing to this version and that a new one lacks."""
    return sorted(
        key
        for key in stored.keys() - new.keys() - KNOWN - WHEN_ABSENT.keys()
        if not key.startswith(SEQUENCES_PREFIX)
    )


def fingerprint_file(fingerprint: Fingerprint) -> bytes:
    """The content of a fingerprint's file: one JSON object, with a checksum of all its other keys."""
    content = dict(fingerprint)
    return (json.dumps({**content, _CHECKSUM: _digest(content)}, indent=2, sort_keys=True) + "\n").encode()


def fingerprint_in(content: bytes) -> dict[str, str | int | None]:
    """The fingerprint in the content of its file. Raises ValueError if it isn't as it was written."""
    try:
        found = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if isinstance(found, dict) and found and _CHECKSUM not in found:
        raise ValueError("it carries no checksum: damaged, or written by a version without checksums")
    if not isinstance(found, dict) or found.pop(_CHECKSUM, None) != _digest(found):
        raise ValueError("it does not match its checksum")
    return found


def _digest(fingerprint: Fingerprint) -> str:
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:32]


def refusal(where: str, suite: str, stored: Fingerprint, new: Fingerprint) -> str:
    """What to say where a run with the fingerprint `new` would go on with results of `stored`."""
    if unknown := unknown_keys(stored, new):
        return (
            f"{where} holds results of suite {suite} from a run with settings that this version of memoserve "
            f"doesn't know ({', '.join(f'{key}: {stored[key]}' for key in unknown)}), so it can't go on with "
            "them: use the version that wrote them, or another directory. Queries and reports work."
        )
    return (
        f"{where} holds results of suite {suite} from an unlike run (stored vs new):\n"
        + "\n".join(differences(stored, new))
        + "\nResults of unlike runs are never mixed: use another directory, or the stored settings."
    )
