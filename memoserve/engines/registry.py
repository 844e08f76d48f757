"""Which engines there are: ours, and those of other packages, by the entry-point group memoserve.engines."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import cast

from memoserve.engines.diagnosis import Diagnosis
from memoserve.engines.engine import Engine
from memoserve.engines.settings import EngineSettings
from memoserve.errors import BadInput, EngineFailed

GROUP = "memoserve.engines"

# Not entry points of our own: they work in a checkout that was never installed, and nobody takes their names.
_OURS = (
    EntryPoint("vllm", "memoserve.engines.vllm.engine:VllmEngine", GROUP),
    EntryPoint("transformers", "memoserve.engines.transformers.engine:TransformersEngine", GROUP),
)

_MEMBERS = tuple(name for name in vars(Engine) if not name.startswith("_"))


def engine_names() -> tuple[str, ...]:
    """The names that `--engine` takes: ours, then those of other packages in order."""
    return tuple(_known())


def known_engine(name: str) -> str:
    """The name again. Raises BadInput, with those that there are, for one that no engine has."""
    names = engine_names()
    if name in names:
        return name
    near = get_close_matches(name, names, 1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    raise BadInput(f"there is no engine {name!r}{meant}; installed here: {', '.join(names)}")


def engine_class(name: str) -> type[Engine]:
    """The class of an engine, imported.

    Raises BadInput for a name that no engine has, EngineFailed for what can't be imported or is none.
    """
    entry = _known()[known_engine(name)]
    try:
        found = entry.load()
    except Exception as error:  # whatever a package of somebody else raises while it is imported
        raise EngineFailed(
            f"the engine {name} ({entry.value}) can't be imported: {type(error).__name__}: {error}"
        ) from error
    lacking = [member for member in _MEMBERS if not hasattr(found, member)]
    if not isinstance(found, type) or lacking:
        raise EngineFailed(
            f"the engine {name} ({entry.value}) is no class with all of {', '.join(_MEMBERS)}"
            + (f": it lacks {', '.join(lacking)}" if lacking else "")
        )
    return cast("type[Engine]", found)


def make_engine(settings: EngineSettings, folder: Path) -> Engine:
    """The engine that `settings` names, in this process, with the weights of a folder."""
    return engine_class(settings.engine)(settings, folder)


def diagnose(name: str) -> Diagnosis:
    """Why an engine is unavailable. Raises BadInput for a name that no engine has."""
    try:
        return engine_class(name).diagnose()
    except EngineFailed as error:
        return Diagnosis(name, "", "", (str(error),))


def require(name: str) -> Diagnosis:
    """The diagnosis of a usable engine. Raises EngineFailed, saying what is missing, for another."""
    diagnosis = diagnose(name)
    if diagnosis.problems:
        lines = "\n".join(f"  {problem}" for problem in diagnosis.problems)
        raise EngineFailed(f"the {name} engine can't run here:\n{lines}")
    return diagnosis


def _known() -> dict[str, EntryPoint]:
    """By name. Of two of one name, ours, else the first that Python finds."""
    known = {entry.name: entry for entry in _OURS}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        known.setdefault(entry.name, entry)
    return known
