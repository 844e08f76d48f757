"""A run of the service is a `memoserve run` of its own, planning too.

A process, though memoserve.run.job could do it in this one: it ends whatever it does when it is told to, what
kills it (too little memory, an engine's library) kills no other, it goes on when the server or its worker is
gone, and its log is a file that outlives all three.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from memoserve.run.options import Options, arguments_of


def command_of(options: Options | Sequence[str]) -> list[str]:
    """The command line of a run, which tells events; from options, or from what arguments_of made of them."""
    arguments = arguments_of(options) if isinstance(options, Options) else options
    return [sys.executable, "-m", "memoserve", "run", *arguments, "--progress=json"]
