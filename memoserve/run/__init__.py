"""A run: check what it reads, plan what is missing, feed engines, write parts. `job` is the way in."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memoserve.run.outcome import Outcome


class _Callable(ModuleType):
    """A package that can be called: it has the name of a function of memoserve's, whose place it takes as
    soon as anything imports one of its modules.
    """

    def __call__(self, **options: Any) -> Outcome:
        """See memoserve.run.calling.run."""
        from memoserve.run.calling import run

        return run(**options)


sys.modules[__name__].__class__ = _Callable
