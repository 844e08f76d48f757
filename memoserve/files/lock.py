"""Locks between the processes of a machine, which the operating system lets go of even after kill -9.

Not the package filelock: its FileLock locks files only (the writer of a pack locks the folder that it will
rename), and its lock_descriptor is what `try_lock` is, one call of flock. A bucket has no locks at all: see
memoserve.files.lease.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder until the descriptor is closed. False: another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the second: some network file systems
        return False
    return True


def is_locked(file: Path) -> bool:
    """Whether a process has that file locked. One that isn't there is not locked."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(descriptor)
    finally:
        os.close(descriptor)
