"""Locks between the processes of a machine, which the operating system lets go of even after kill -9.

Not the package filelock: it locks files only (the writer of a pack locks the folder that it will rename), and
where a file system has no flock it turns to files that stay behind when their maker is killed. A bucket has
no locks at all: see memoserve.files.lease.
"""

from __future__ import annotations

import fcntl


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder until the descriptor is closed. False: another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
