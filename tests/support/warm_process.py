"""A process that has imported memoserve and forks one for each call of its command line.

    python warm_process.py DESCRIPTOR

A call costs a fork instead of an interpreter's start and a second of imports. Each still is a process of its
own, which ends as any does: what one leaves behind, another doesn't see. `command_line.WarmProcess` is the
other end of the socket DESCRIPTOR. There: a length and JSON of {arguments, folder, engines} with descriptors
for what is written, and with one more if `engines` is the address of a fork server of multiprocessing's,
which lives as long as the descriptor is open. Back: the exit status.
"""

from __future__ import annotations

import gc
import importlib
import json
import multiprocessing.forkserver as forkserver
import os
import pkgutil
import runpy
import socket
import sys
from typing import Any

LENGTH = 4
"""Bytes of the length of a message."""


def _import_memoserve() -> None:
    """All of it, with what it imports, but torch and vLLM: engine processes are forked from others."""
    import memoserve

    for module in pkgutil.walk_packages(memoserve.__path__, "memoserve."):
        engine = module.name.startswith(("memoserve.engines.transformers", "memoserve.engines.vllm"))
        if not engine and module.name != "memoserve.__main__":
            importlib.import_module(module.name)


def _become(call: dict[str, Any], descriptors: list[int]) -> None:
    """`python -m memoserve` in the folder of the call, in this process."""
    for number in (1, 2):
        os.dup2(descriptors[number - 1], number)
        os.close(descriptors[number - 1])
    os.chdir(call["folder"])
    sys.path.insert(0, call["folder"])
    sys.argv = ["memoserve", *call["arguments"]]
    if call["engines"]:
        shared: Any = vars(forkserver)["_forkserver"]
        shared._forkserver_address, shared._forkserver_alive_fd = call["engines"], descriptors[2]
        shared.ensure_running = lambda: None  # it is: this process just isn't the one that started it
    runpy.run_module("memoserve", run_name="__main__", alter_sys=True)


def main() -> None:
    """Fork for each call until the other end is closed."""
    del sys.path[0]  # of this file: python -m has the folder of the call there
    _import_memoserve()
    gc.freeze()
    calls = socket.socket(fileno=int(sys.argv[1]))
    while True:
        head, descriptors, _, _ = socket.recv_fds(calls, LENGTH, 3)
        if not head:
            return
        call = json.loads(calls.recv(int.from_bytes(head), socket.MSG_WAITALL))
        pid = os.fork()
        if pid == 0:
            calls.close()
            _become(call, descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        calls.sendall(json.dumps(code).encode() + b"\n")


if __name__ == "__main__":
    main()
