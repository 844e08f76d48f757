"""Lets a process of a run under scripts/faults.py kill itself at an exact moment.

Python imports this in every process that has this folder on its PYTHONPATH: the driver, Ray's workers,
engines and what they are forked from. The file that MEMOSERVE_DYING names holds an order, a JSON object:

    {"kind": "write", "file": REGEX, "moment": "opened", "count": 3}    at the third such file
    {"kind": "switch", "file": REGEX, "count": 2}                       at an engine's second look at weights

Moments of a write: `opened` (nothing is there yet), `torn` (half a temporary file is), `written` (all of it
is, not synced), `named` (it has its name, its folder is not synced), `removed` (it is about to be removed).
Who comes to that first takes the order, so that it is carried out once, and dies of SIGKILL.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

ORDER = os.environ.get("MEMOSERVE_DYING", "")
BUSY = False
SEEN: dict[tuple[float, str], int] = {}
NAMED = False


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: called before Python opens, links, renames or removes something."""
    global BUSY
    if BUSY or event not in ("open", "os.link", "os.rename", "os.remove", "os.listdir", "os.scandir"):
        return
    BUSY = True
    try:
        look(event, arguments)
    except OSError:
        pass  # no order, or another process was faster
    finally:
        BUSY = False


def look(event: str, arguments: tuple[Any, ...]) -> None:
    """Carry out the order, if this is its moment."""
    global NAMED
    if not isinstance(arguments[0], str | os.PathLike):
        return
    path = os.fspath(arguments[0])
    if not isinstance(path, str) or ORDER in path:
        return
    given = os.stat(ORDER).st_mtime_ns
    order = json.loads(Path(ORDER).read_text())
    if order["kind"] == "switch":
        started = sys.modules.get("multiprocessing.process")  # not while that is being imported
        name = started.current_process().name if started and hasattr(started, "current_process") else ""
        if name.startswith("memoserve") and re.search(order["file"], path):
            count(order, given)
        return
    if NAMED:
        die(order, path)
    moment = {"os.link": "named", "os.rename": "named", "os.remove": "removed"}.get(event, "")
    if event == "open":
        moment = "opened" if arguments[2] & (os.O_WRONLY | os.O_RDWR) else "written"
    if order["moment"] == "torn" and moment == "opened":
        moment = "torn"
    if moment != order["moment"] or not re.search(order["file"], path):
        return
    if moment == "named":
        NAMED = count(order, given, now=False)
    else:
        count(order, given, torn=path if moment == "torn" else "")


def count(order: dict[str, Any], given: int, torn: str = "", now: bool = True) -> bool:
    """Whether it came to this as often as the order says; then, if it is to be now, die."""
    key = (given, json.dumps(order))
    SEEN[key] = SEEN.get(key, 0) + 1
    if SEEN[key] < order["count"]:
        return False
    if now:
        die(order, torn)
    return True


def die(order: dict[str, Any], torn: str) -> None:
    """Take the order, which only one process can, leave half a file, and be gone."""
    os.rename(ORDER, f"{ORDER}.taken")
    if order.get("moment") == "torn":
        Path(torn).write_bytes(b"PAR1" + bytes(100))
    os.kill(os.getpid(), signal.SIGKILL)


if ORDER:
    sys.addaudithook(watch)
