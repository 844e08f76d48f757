"""memoserve measures memorization in language models, and forecasts it from cheaper runs.

>>> import memoserve
>>> store = memoserve.open("memoserve-out")  # doctest: +SKIP
>>> store.query("predictors", target="1.2m@1001")  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memoserve.api import Store as Store
    from memoserve.api import open as open
    from memoserve.api import prepare as prepare
    from memoserve.api import run as run

__version__ = "0.1.0"

__all__ = ["Store", "__version__", "open", "prepare", "run"]


def __getattr__(name: str) -> Any:
    # When it is asked for: the command line and whoever only wants the version don't wait for it.
    if name not in __all__:
        raise AttributeError(f"module 'memoserve' has no attribute {name!r}")
    from importlib import import_module

    # The package memoserve.run is that function, see there.
    return import_module("memoserve.run") if name == "run" else getattr(import_module("memoserve.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
