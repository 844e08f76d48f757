#!/usr/bin/env python3
"""Break real runs at random moments, and see that nothing is lost, doubled or wrong.

    python scripts/faults.py --faults 200 --seed 1 [--engine vllm] [--executor ray] [--kinds kills]

A chain of runs fills one store: on a small file system of its own (a tmpfs, where this user may mount one)
or in a bucket of an S3-compatible server on loopback. Before each run some of its parts are damaged, and
while it works something happens to it: its driver, its engine, what engines are forked from, a Ray worker or
all of a Ray node is killed with SIGKILL, at any moment; whoever writes is, in the middle of a part, a list or
what describes the store (scripts/dying, and the server, which sees requests come); an engine is, while it
loads weights; the disk fills, a second driver is started on the same store, the server is gone, answers 503
or denies access. No run may end with a traceback or an exit code that isn't for
what happened. After each, `memoserve verify` must name exactly the files that were damaged, and every row in
every whole part must be that of an undisturbed run, in the answer to what is memorized too: lists of that are
kept beside parts, here of few scores too. At the end of a chain one more run has to finish: it must
make exactly the parts that are missing or damaged, leave all others as they are, and the store must equal the
undisturbed one row by row.

The kind that happened least comes next. Faults count when their chain is whole. With --result the tally is
kept in a JSON file after each chain, and a harness that was stopped goes on from there. Prints one line a
fault, and the tally. Exit code 1 if anything was found. Needs the packages of the extra `dev`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from held_port import HeldPort
from ray_nodes import Nodes, line_of

from memoserve.catalog import connect
from memoserve.store import Store
from memoserve.store.columns import SCORES
from memoserve.store.parts import Part, part_name, read_part

CHECKPOINTS = tuple(f"116k@{step}" for step in (161, 301, 441, 581, 721, 861, 1001))
SEQUENCES, PART = 96, 12
PARTS = SEQUENCES // PART * (len(CHECKPOINTS) + 1)
SECONDS = 900
"""After which a run that does not end counts as one that hangs."""

DYING = Path(__file__).parent / "dying"
"""What lets processes of runs kill themselves; on their PYTHONPATH."""

MEMOSERVE = """
import sys
from memoserve.cli import main
from memoserve.store import Store
Store.list_memorized.__kwdefaults__["worth"] = 1
sys.argv[0] = "memoserve"
main()
"""
"""memoserve, which lists what is memorized however few scores there are."""

DAMAGES = ("truncate", "flip", "zero", "footer", "misplace", "foreign", "overlap", "stray", "list")
KILLS = ("driver", "engine", "forkserver", "worker", "node", "write", "switch")
STRIKES = (*KILLS, "disk", "second", "gone", "busy", "denied", "lease")
GROUPS = {"damages": DAMAGES, "kills": KILLS, "strikes": STRIKES, "all": (*DAMAGES, *STRIKES)}
RAY_ONLY = {"worker", "node"}
REMOTE_ONLY, LOCAL_ONLY = {"gone", "busy", "denied", "lease"}, {"disk", "stray"}
ENDINGS = {
    "driver": {-signal.SIGKILL},
    "engine": {0, 5, 6},
    "forkserver": {0, 5, 6},
    "worker": {0, 6},
    "node": {0, 6},
    "write": {0, 6, -signal.SIGKILL},
    "switch": {0, 5, 6},
    "disk": {0, 7},
    "second": {0, 4},
    "gone": {0, 6, 7},
    "busy": {0, 6, 7},
    "denied": {0, 6, 7},
    "lease": {0, 4, 6, 7},
}
"""The exit codes that a run may end with after a fault."""

ORDERED = {"write", "switch"}
"""These come at a moment of their own, for which an order is given before."""

WRITES = {
    "part": r"/\.part-[^/]*\.tmp$",
    "list": r"/\.(memorized|repeats)-[^/]*\.tmp$",
    "old list": r"/(memorized|repeats)-[^/]*\.parquet$",
    "description": r"/\.(memoserve|fingerprint|checkpoints)[^/]*\.tmp$",
}
PUTS = {
    "part": r"/part-[^/]*$",
    "list": r"/(memorized|repeats)-[^/]*$",
    "description": r"/(memoserve|fingerprint|checkpoints|0{6}[^/]*)\.[a-z]*$",
}
"""Names of what is written: the temporary names in a folder, and the names in a bucket."""

FORKSERVER = re.compile(r"memoserve\.engines\.\w+\.preload")
"""In the command line of what engines are forked from, and of what is forked."""

GOES_ON = {"engine", "forkserver", "worker", "node", "second", "gone", "busy"}
"""After these a run may well go on, so that another one can follow."""


class Bucket:
    """An S3-compatible server in this process, that can be taken away, and keeps what it holds."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._app = DomainDispatcherApplication(create_backend_app)
        self.answers = "yes"
        self.order: dict[str, Any] | None = None
        self._ordering = threading.Lock()
        self._port = HeldPort()
        self.start()
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "faults",
            "AWS_SECRET_ACCESS_KEY": "faults",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port.number}",
        }
        import fsspec

        fsspec.filesystem("s3").mkdir("bucket")

    def start(self) -> None:
        """Listen, again on the same port."""
        from werkzeug.serving import make_server

        with self._port.listening() as opened:  # the server has a copy of its own
            self._server = make_server(
                "127.0.0.1", self._port.number, self._gate, threaded=True, fd=opened.fileno()
            )
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections."""
        self._server.shutdown()
        self._server.server_close()

    def _gate(self, environ: dict[str, Any], respond: Any) -> Any:
        refusals = {"busy": ("503 Slow Down", "SlowDown"), "denied": ("403 Forbidden", "AccessDenied")}
        if self.answers in refusals:
            status, code = refusals[self.answers]
            respond(status, [("Content-Type", "application/xml")])
            return [f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()]
        order = self._due(environ)
        if order is not None and order["moment"] == "asked":
            order["killed"] = kill_sender(environ)
            respond("500 Internal Server Error", [])
            return []
        answer = self._app(environ, respond)
        if order is not None:
            order["killed"] = kill_sender(environ)
        return answer

    def _due(self, environ: dict[str, Any]) -> dict[str, Any] | None:
        """The order, if it is about this request: who writes a file of this name for the nth time dies."""
        with self._ordering:
            order = self.order
            if order is None or environ["REQUEST_METHOD"] != "PUT" or order["count"] < 1:
                return None
            if re.search(order["file"], environ["PATH_INFO"]) is None:
                return None
            order["count"] -= 1
            return order if order["count"] == 0 else None


@dataclass
class Tally:
    """What whole chains came to; all of it goes into the file of --result."""

    faults: Counter[str] = field(default_factory=Counter)
    where: Counter[str] = field(default_factory=Counter)
    exits: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    chains: int = 0
    runs: int = 0
    damaged_files_found: int = 0
    parts_made_again: int = 0
    rows_compared: int = 0
    answers_compared: int = 0
    seconds: float = 0.0

    def add(self, other: Tally) -> None:
        """Count another one in."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(mine, Counter):
                mine.update(value)
            else:
                setattr(self, name, mine + value)


@dataclass
class Harness:
    """What all chains share; `now` is the tally of the chain under way."""

    options: argparse.Namespace
    folder: Path
    bucket: Bucket
    dice: random.Random
    nodes: Nodes | None = None
    last: subprocess.Popen[bytes] | None = None
    reference: dict[int, Any] = field(default_factory=dict)
    whole: Tally = field(default_factory=Tally)
    now: Tally = field(default_factory=Tally)

    def command(self, *arguments: str) -> list[str]:
        """A command line of memoserve."""
        return [sys.executable, "-c", MEMOSERVE, *arguments]

    @property
    def order(self) -> Path:
        """Where an order to a process of a run is (see scripts/dying)."""
        return self.folder / "order.json"

    def run(self, store: str, part: int = PART) -> subprocess.Popen[bytes]:
        """Start the job on a store."""
        self.now.runs += 1
        executor = ["--executor", "ray", "--address", self.nodes.address] if self.nodes is not None else []
        self.last = subprocess.Popen(
            self.command(
                *("run", "--checkpoints", ",".join(CHECKPOINTS), "--sequences", f"0:{SEQUENCES}"),
                *("--part-size", str(part), "--mode", "extract", "--engine", self.options.engine),
                "--deterministic",
                *("--out", store, *executor),
            ),
            stdout=self.output.open("ab"),
            stderr=subprocess.STDOUT,
            # Threads that wait for each other are slow on a machine that does other things too.
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        return self.last

    @property
    def output(self) -> Path:
        """What the runs of this chain wrote."""
        return self.folder / "output.txt"

    def fault(self, kind: str, store: str, **details: Any) -> None:
        """Count and print one fault."""
        self.now.faults[kind] += 1
        remote = "s3" if "://" in store else "local"
        self.now.where[remote] += 1
        number = self.whole.faults.total() + self.now.faults.total()
        line = {"fault": number, "kind": kind, "where": remote, **details}
        print(" ".join(f"{key}={value}" for key, value in line.items()), flush=True)
        if self.options.log:
            with self.options.log.open("a") as log:
                log.write(json.dumps(line) + "\n")

    def rarest(self, kinds: Iterable[str]) -> str:
        """The kind that happened least, one of them if there are several."""
        times = {kind: self.whole.faults[kind] + self.now.faults[kind] for kind in kinds}
        return self.dice.choice([kind for kind in times if times[kind] == min(times.values())])

    def ended(self, where: str, code: int, kinds: Iterable[str], never: int | None = None) -> None:
        """Whether a run ended as one may to which this happened, and not with `never`."""
        self.now.exits[str(code)] += 1
        allowed = {0}.union(*(ENDINGS[kind] for kind in kinds)) - {never}
        if code not in allowed:
            self.bad(f"{where}: after {', '.join(kinds)} a run ended with {code}: {self.last_output()}")
        if any(sign in self.last_output(1 << 20) for sign in ("Traceback", "error: unexpected")):
            self.bad(f"{where}: after {', '.join(kinds)} a run showed a traceback: {self.last_output()}")
        self.output.unlink(missing_ok=True)

    def last_output(self, characters: int = 2000) -> str:
        """The end of what runs wrote since one ended."""
        return self.output.read_text(errors="replace")[-characters:] if self.output.exists() else ""

    @property
    def enough(self) -> bool:
        """Whether as much happened as was asked for."""
        return bool(self.whole.faults.total() + self.now.faults.total() >= self.options.faults)

    def bad(self, what: str) -> None:
        """Something that must not be."""
        self.now.wrong.append(what)
        print(f"WRONG: {what}", flush=True)

    def keep(self, seconds: float) -> None:
        """A chain is whole: count it, say so, and write it down."""
        self.now.chains, self.now.seconds = 1, seconds
        self.whole.add(self.now)
        self.now = Tally()
        whole = self.whole
        kinds = ", ".join(f"{kind} {times}" for kind, times in whole.faults.most_common())
        print(f"-- {whole.faults.total()} faults in {whole.chains} whole chains: {kinds}", flush=True)
        if self.options.result:
            result = {
                "command": " ".join(sys.argv),
                "engine": self.options.engine,
                "executor": self.options.executor or "local",
                **vars(whole),
            }
            beside = self.options.result.with_suffix(".new")
            beside.write_text(json.dumps(result, indent=1) + "\n")
            beside.replace(self.options.result)


def main() -> int:
    """Run the harness."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    parser.add_argument("--executor", choices=("local", "ray"))
    parser.add_argument(
        "--kinds", default="all", help=f"which faults: {', '.join((*GROUPS, *DAMAGES, *STRIKES))}"
    )
    parser.add_argument("--place", choices=("local", "s3"), help="only stores of this kind")
    parser.add_argument("--undisturbed", type=Path, help="store to compare with, made if it isn't there")
    parser.add_argument("--log", type=Path, help="append a JSON object a fault to this file")
    parser.add_argument("--result", type=Path, help="keep the tally in this file, and go on from it")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end in order, as at Ctrl-C
    kinds = {kind for name in options.kinds.split(",") for kind in GROUPS.get(name, (name,))}
    if unknown := kinds - set(GROUPS["all"]):
        parser.error(f"--kinds: {', '.join(sorted(unknown))} is none")
    kinds -= set() if options.executor == "ray" else RAY_ONLY
    with tempfile.TemporaryDirectory(prefix="memoserve-faults-") as folder:
        path = os.pathsep.join(filter(None, (str(DYING), os.environ.get("PYTHONPATH"))))
        os.environ |= {"PYTHONPATH": path, "MEMOSERVE_DYING": f"{folder}/order.json"}
        harness = Harness(options, Path(folder), Bucket(), random.Random(options.seed))
        if options.result and options.result.exists():
            kept = json.loads(options.result.read_text())
            for name, value in vars(harness.whole).items():
                setattr(harness.whole, name, type(value)(kept[name]))
            harness.dice.seed(f"{options.seed} {harness.whole.chains}")
        undisturbed = str(options.undisturbed or f"{folder}/undisturbed")
        if harness.run(undisturbed).wait(SECONDS):
            print(harness.last_output(), file=sys.stderr)
            return 1
        harness.now = Tally()
        harness.output.unlink()
        harness.reference = contents(Store.open(undisturbed))
        if options.executor == "ray":
            harness.nodes = Nodes(2)  # they inherit what says where the bucket is
        try:
            while not harness.enough and len(harness.whole.wrong) < 20:
                began = time.monotonic()
                with new_store(harness) as where:
                    chain(harness, where, kinds)
                harness.keep(time.monotonic() - began)
        except KeyboardInterrupt:
            print("interrupted: the chain under way doesn't count")
            if harness.last is not None:
                harness.last.kill()
        finally:
            if harness.nodes is not None:
                harness.nodes.close()
        whole = harness.whole
        print(f"\n{'fault':<12}{'times':>6}")
        for kind, times in whole.faults.most_common():
            print(f"{kind:<12}{times:>6}")
        kills = sum(whole.faults[kind] for kind in KILLS)
        print(
            f"{whole.faults.total()} faults ({kills} kills) in {whole.runs} runs,"
            f" {whole.damaged_files_found} damaged files found, {whole.parts_made_again} parts made again,"
            f" {whole.rows_compared:,} rows and {whole.answers_compared} answers compared,"
            f" {len(whole.wrong)} things wrong, {whole.seconds:.0f} s"
        )
    return 1 if whole.wrong else 0


@contextmanager
def new_store(harness: Harness) -> Iterator[str]:
    """A new, empty place for a store."""
    remote = harness.dice.random() < 0.4 if not harness.options.place else harness.options.place == "s3"
    name = f"{harness.whole.chains}-{harness.dice.getrandbits(32):08x}"
    if remote:
        yield f"s3://bucket/{name}"
        return
    folder = harness.folder / name
    folder.mkdir()
    mounted = not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode
    try:
        yield f"{folder}/store"
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        shutil.rmtree(folder, ignore_errors=True)


def chain(harness: Harness, where: str, kinds: set[str]) -> None:
    """Several disturbed runs of one store, and one that has to finish."""
    remote = "://" in where
    strikes = sorted(kinds & set(STRIKES) - (LOCAL_ONLY if remote else REMOTE_ONLY))
    damages = sorted(kinds & set(DAMAGES) - (LOCAL_ONLY if remote else set()))
    left: set[str] = set()
    for _ in range(harness.dice.randint(2, 4) if strikes else 0):
        if harness.enough:
            break
        strike(harness, where, strikes, left)
        check(harness, where, set(), may_be_left=left)  # a run that was killed early mended nothing
        left = damage_some(harness, where, damages)
    store = Store.create(where)
    before = snapshot(store)
    run = harness.run(where)
    harness.ended(where, run.wait(SECONDS), ())
    if run.returncode:
        return
    after = snapshot(store)
    for name, content in before.items():
        if after.get(name) != content:
            harness.bad(f"{name} was whole and is another one after the run")
    harness.now.parts_made_again += len(after) - len(before)
    check(harness, where, set())
    check_lists(harness, where)
    found = contents(store)
    for step, rows in harness.reference.items():
        if not (step in found and all(map(np.array_equal, found[step], rows))):
            harness.bad(f"{where}: step {step} is not that of the undisturbed run")
        harness.now.rows_compared += len(rows[0])
    # The finished store is damaged once more, and mended by a run that starts an engine for just that.
    if damages and not harness.enough and harness.dice.random() < 0.3:
        damage_some(harness, where, damages)
        before = snapshot(store)
        run = harness.run(where)
        harness.ended(where, run.wait(SECONDS), ())
        after = snapshot(store)
        if any(after.get(name) != content for name, content in before.items()):
            harness.bad(f"{where}: a whole part was made again")
        harness.now.parts_made_again += len(after) - len(before)
        check(harness, where, set())
        check_lists(harness, where)
        found = contents(store)
        if any(not all(map(np.array_equal, found[step], rows)) for step, rows in harness.reference.items()):
            harness.bad(f"{where}: the mended store is not the undisturbed one")


def strike(harness: Harness, where: str, strikes: list[str], left: set[str]) -> None:
    """One run with one thing that happens to it, or several; after each, the store is looked at."""
    thin_out(harness, where)
    kind = harness.rarest(strikes)
    if kind in ORDERED:
        give_order(harness, where, kind)
    run = harness.run(where)
    happened: list[str] = []
    second = 4
    try:
        for number in range(8):
            if number:
                kind = harness.rarest(strikes)
                if kind in ORDERED:
                    give_order(harness, where, kind)
            if kind in ORDERED:
                happened.append(kind)
                if not wait_for_death(harness, where, run, kind):
                    break
                check(harness, where, set(), may_be_left=left, at_work=True)
                continue
            if not wait_for_a_moment(harness, where, run, kind):
                break
            at = len(list(all_parts(Store(where)))) if harness.bucket.answers == "yes" else -1
            happened.append(kind)
            details = STRIKE[kind](harness, where, run)
            if details is not None:
                harness.fault(kind, where, parts=at, **details)
                if kind == "second":
                    second = details["exit"] if second == 4 else second
            if kind not in GOES_ON or run.poll() is not None:
                break
            check(harness, where, set(), may_be_left=left, at_work=True)
        run.wait(SECONDS)
    except subprocess.TimeoutExpired:
        harness.bad(f"{where}: a run hung after {', '.join(happened)}: {harness.last_output()}")
        run.kill()
        run.wait()
    finally:
        harness.bucket.answers = "yes"
        if run.poll() is None:
            run.kill()
    # Of two drivers one is told that the store is in use, and not both.
    harness.ended(where, run.wait(), happened, never=4 if second == 4 else None)


def thin_out(harness: Harness, where: str) -> None:
    """Take parts away from a store that has most of them, so that the next run has something to do."""
    if not Store.is_at(where):
        return
    store = Store(where)
    parts = list(all_parts(store))
    if len(parts) > PARTS - SEQUENCES // PART:
        for part in harness.dice.sample(parts, harness.dice.randint(PARTS // 4, len(parts))):
            store.files.remove(part.name)


def give_order(harness: Harness, where: str, kind: str) -> None:
    """Let somebody who works for the next run die at a certain moment."""
    dice = harness.dice
    if kind == "switch":
        # Each time that an engine loads weights it looks at several files of theirs.
        order = {"kind": kind, "file": r"/weights/", "count": dice.randint(1, 9)}
    else:
        moments = (
            ("asked", "answered") if "://" in where else ("opened", "torn", "written", "named", "removed")
        )
        what = dice.choice(["part", "part", "list", "list", "description"])
        moment = dice.choice(moments)
        if what == "list" and moment == "removed":
            what = dice.choice(["list", "old list"])
        there = 0
        with suppress(Exception):
            there = len(list(all_parts(Store(where))))
        many = max(1, PARTS - there) if what == "part" else 2
        names = PUTS if "://" in where else WRITES
        order = {"kind": kind, "file": names[what], "moment": moment, "count": dice.randint(1, many)}
        order["what"] = what
    if kind == "write" and "://" in where:
        harness.bucket.order = order
    else:
        beside = harness.order.with_suffix(".new")
        beside.write_text(json.dumps(order))
        beside.replace(harness.order)


def wait_for_death(harness: Harness, where: str, run: subprocess.Popen[bytes], kind: str) -> bool:
    """Wait until an order is carried out, or the run has ended without that; count it as a fault if it is.

    Returns whether the run may go on.
    """
    taken = harness.order.with_name(f"{harness.order.name}.taken")
    order: dict[str, Any] | None = None
    started: list[psutil.Process] = []
    deadline = time.monotonic() + SECONDS
    while order is None and time.monotonic() < deadline:
        over = run.poll() is not None
        started = (descendants(run) if harness.nodes is None else engines(harness, run)) or started
        if kind == "write" and "://" in where:
            order = harness.bucket.order
            order = order if order is not None and order.get("killed") else None
        elif taken.exists():
            order = json.loads(taken.read_text())
        if over:
            break
        time.sleep(0.05)
    for file in (taken, harness.order):
        file.unlink(missing_ok=True)
    harness.bucket.order = None
    if order is None:
        return False
    at = len(list(all_parts(Store(where))))
    details = {key: order[key] for key in ("what", "moment") if key in order}
    with suppress(subprocess.TimeoutExpired):
        run.wait(1)
    if run.poll() == -signal.SIGKILL:
        end_of(harness, started)
    harness.fault(kind, where, parts=at, **details)
    return run.poll() is None


def wait_for_a_moment(harness: Harness, where: str, run: subprocess.Popen[bytes], kind: str) -> bool:
    """Wait until some time has passed or some more parts are there; False if the run ended before."""
    dice = harness.dice
    if kind in TARGETS and dice.random() < 0.5:  # while it starts, or soon after
        while not TARGETS[kind](harness, run):
            if run.poll() is not None:
                return False
            time.sleep(0.05)
        time.sleep(dice.uniform(0, dice.choice([1, 8])))
        return run.poll() is None
    seconds = dice.uniform(0, 15) if kind not in TARGETS and dice.random() < 0.3 else SECONDS
    there = 0
    with suppress(Exception):
        there = len(list(all_parts(Store(where))))
    parts = dice.randrange(min(max(there, SEQUENCES // PART if kind in TARGETS else 0), PARTS - 1), PARTS)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and there <= parts:
        if run.poll() is not None:
            return False
        with suppress(Exception):
            there = len(list(all_parts(Store(where))))
        time.sleep(0.3 if "://" in where else 0.05)
    time.sleep(dice.uniform(0, 0.2))
    return run.poll() is None


def kill_driver(harness: Harness, where: str, run: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Kill the driver; what it started has to end by itself."""
    started = descendants(run) if harness.nodes is None else engines(harness, run)
    run.kill()
    run.wait()
    end_of(harness, started)
    return {"processes": len(started)}


def end_of(harness: Harness, started: list[psutil.Process]) -> None:
    """What a dead driver had started has to end by itself."""
    # What engines are forked from sees that its driver is gone when it has imported what it has to.
    _, alive = psutil.wait_procs(started, timeout=SECONDS)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            harness.bad(f"process {process.pid} outlived its driver: {' '.join(process.cmdline())[:200]}")
            process.kill()


def kill_sender(environ: dict[str, Any]) -> int | None:
    """Kill the process at the other end of a request's connection; which one it was, None if it is gone."""
    port = int(environ["REMOTE_PORT"])
    for connection in psutil.net_connections("tcp4"):
        if connection.laddr and connection.laddr.port == port and connection.pid not in (None, os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(connection.pid, signal.SIGKILL)
                return connection.pid
    return None


def kill_one(kind: str) -> Any:
    """Kill one of the processes of a kind."""

    def strike(harness: Harness, where: str, run: subprocess.Popen[bytes]) -> dict[str, Any] | None:
        processes = TARGETS[kind](harness, run)
        if not processes:
            return None
        try:
            harness.dice.choice(processes).kill()
        except psutil.NoSuchProcess:
            return None
        return {}

    return strike


def kill_node(harness: Harness, where: str, run: subprocess.Popen[bytes]) -> dict[str, Any] | None:
    """Kill all that a node of the Ray cluster consists of; another one joins."""
    if harness.nodes is None:
        return None
    harness.nodes.kill(harness.dice.choice(harness.nodes.nodes))
    harness.nodes.add()
    return {}


def fill_disk(harness: Harness, where: str, run: subprocess.Popen[bytes]) -> dict[str, Any] | None:
    """Leave some KiB, or none, until the run has ended."""
    folder = Path(where).parent
    if not os.path.ismount(folder):
        return None
    free = shutil.disk_usage(folder).free
    left = harness.dice.choice([0, 0, 1, 3, 6, 12]) << 10
    with suppress(OSError):
        (folder / "ballast").write_bytes(bytes(max(0, free - left)))
    code = run.wait(SECONDS)
    (folder / "ballast").unlink()
    return {"exit": code}


def second_driver(harness: Harness, where: str, run: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Start another run on the same store, with the same grid of parts or another one."""
    held = holder(where) == run.pid
    other = harness.run(where, harness.dice.choice([PART, PART, 4]))
    code = other.wait(SECONDS)
    if code not in (0, 4) or (code != 4 and held and run.poll() is None):
        harness.bad(
            f"{where}: a second driver ended with {code} beside the first one: {harness.last_output()}"
        )
    return {"exit": code, "held": held}


def holder(where: str) -> int | None:
    """The process that holds a store, or was the last one that did."""
    with suppress(Exception):
        if "://" not in where:
            return int((Path(where) / ".lock").read_text())
        files = Store(where).files
        found: dict[str, Any] = json.loads(files.read(f".lease/{files.names('.lease')[-1]}"))
        return None if found.get("given_back") else int(found["pid"])
    return None


def take_server(harness: Harness, where: str, run: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Refuse connections for a while."""
    seconds = harness.dice.choice([0.3, 1.0, 3.0, 30.0])
    harness.bucket.stop()
    with suppress(subprocess.TimeoutExpired):
        run.wait(seconds)
    harness.bucket.start()
    return {"seconds": seconds, "exit": run.poll()}


def refuse(answer: str) -> Any:
    """Answer every request so for a while, or until the run has ended."""

    def strike(harness: Harness, where: str, run: subprocess.Popen[bytes]) -> dict[str, Any]:
        seconds = harness.dice.choice([0.3, 2.0, 30.0]) if answer == "busy" else 60.0
        harness.bucket.answers = answer
        with suppress(subprocess.TimeoutExpired):
            run.wait(seconds)
        harness.bucket.answers = "yes"
        return {"seconds": seconds, "exit": run.poll()}

    return strike


def steal_lease(harness: Harness, where: str, run: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Remove the lease, so that a second driver works on the same store at the same time."""
    files = Store(where).files
    for name in files.names(".lease"):
        files.remove(f".lease/{name}")
    other = harness.run(where, harness.dice.choice([PART, 4]))
    code = other.wait(SECONDS)
    return {"second": code, "exit": run.wait(SECONDS)}


def descendants(run: subprocess.Popen[Any]) -> list[psutil.Process]:
    """Every process that a run started, directly or not."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(run.pid).children(recursive=True)
    return []


def below(harness: Harness, run: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Every process that works for a run, on the nodes of a cluster too."""
    return descendants(run) + (harness.nodes.below() if harness.nodes is not None else [])


def forkservers(harness: Harness, run: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """What engines are forked from: they have its command line, and it is their parent."""
    found = [p for p in below(harness, run) if FORKSERVER.search(line_of(p))]
    ids = {process.pid for process in found}
    return [process for process in found if parent_of(process) not in ids]


def engines(harness: Harness, run: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes of engines, without what they are forked from."""
    found = [p for p in below(harness, run) if FORKSERVER.search(line_of(p))]
    ids = {process.pid for process in found}
    return [process for process in found if parent_of(process) in ids]


def workers(harness: Harness, run: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Ray's workers that have an engine."""
    return [process for process in below(harness, run) if "ray::Worker" in line_of(process)]


def parent_of(process: psutil.Process) -> int:
    """The parent of a process, 0 if it is gone."""
    with suppress(psutil.Error):
        return process.ppid()
    return 0


TARGETS = {"engine": engines, "forkserver": forkservers, "worker": workers}

STRIKE = {
    "driver": kill_driver,
    "engine": kill_one("engine"),
    "forkserver": kill_one("forkserver"),
    "worker": kill_one("worker"),
    "node": kill_node,
    "disk": fill_disk,
    "second": second_driver,
    "gone": take_server,
    "busy": refuse("busy"),
    "denied": refuse("denied"),
    "lease": steal_lease,
}


def damage_some(harness: Harness, where: str, damages: list[str]) -> set[str]:
    """Damage some parts, see that verify names them and no others, and move them away where a run doesn't."""
    dice = harness.dice
    store = Store(where)
    parts = list(all_parts(store))
    if not damages or not parts:
        return set()
    expected: set[str] = set()
    # What an earlier run left damaged is not damaged twice.
    left = damaged_now(store)
    parts = [part for part in parts if part.name not in left]
    chosen = dice.sample(parts, min(len(parts), dice.randint(1, 3)))
    for part in chosen:
        kind = harness.rarest(damages)
        name = (
            damage_list(harness, store, left | expected)
            if kind == "list"
            else damage(harness, store, part, kind)
        )
        if name is not None:
            expected.add(name)
            harness.fault(kind, where, part=name.rpartition("/")[2])
    harness.now.damaged_files_found += len(expected)
    check(harness, where, expected | left)
    if "://" in where and expected:
        # A run reads only the footers of a remote store.
        subprocess.run(harness.command("verify", where, "--repair"), check=True, stdout=subprocess.DEVNULL)
        return set()
    return expected | left


def damage(harness: Harness, store: Store, part: Part, kind: str) -> str | None:
    """Damage a part, or put something beside it; the name of what verify has to find."""
    dice, files = harness.dice, store.files
    content = bytearray(files.read(part.name))
    folder = part.name.rpartition("/")[0]
    at = dice.randrange(len(content))
    if kind == "truncate":
        files.write(part.name, bytes(content[:at]))
    elif kind in ("flip", "footer"):
        start = len(content) - int.from_bytes(content[-8:-4], "little") - 8
        at = at if kind == "flip" else dice.randrange(start, len(content))
        content[at] ^= 1 << dice.randrange(8)
        files.write(part.name, bytes(content))
    elif kind == "zero":  # as a file system does that lost the blocks of a file and kept its size
        files.write(part.name, bytes(content[:at]) + bytes(len(content) - at))
    elif kind == "misplace":
        far = part_name(part.first + (1 << 20), part.stop + (1 << 20))
        files.write(f"{folder}/{far}", bytes(content))
        return f"{folder}/{far}"
    elif kind == "foreign":
        # A part of another run in this one's place: the footer says so, and is whole.
        with tempfile.TemporaryDirectory() as other:
            copied = foreign(Path(other), part)
        if copied is None:
            return None
        files.write(part.name, copied)
    elif kind == "overlap":
        name = f"{folder}/{part_name(part.first + 1, part.stop)}"
        files.write(name, bytes(content))
        return name
    elif kind == "stray":
        # Of a process that is not there any more.
        name = f"{folder}/.{part.name.rpartition('/')[2]}.{1 << 22 | dice.randrange(1 << 20)}.tmp"
        files.write(name, bytes(content[:at]))
        return name
    return part.name


def damage_list(harness: Harness, store: Store, left: set[str]) -> str | None:
    """Damage a list beside parts; its name, None if there is none that is whole."""
    names = [name for name in store.files.below("") if re.search(WRITES["old list"], name)]
    names = [name for name in names if name not in left and not name.startswith("damaged/")]
    if not names:
        return None
    name = harness.dice.choice(names)
    content = bytearray(store.files.read(name))
    at = harness.dice.randrange(len(content))
    if harness.dice.random() < 0.5:
        content[at] ^= 1 << harness.dice.randrange(8)
    else:
        del content[at:]
    store.files.write(name, bytes(content))
    return name


def foreign(folder: Path, part: Part) -> bytes | None:
    """What a run with other settings would have written as this part."""
    from types import SimpleNamespace

    from memoserve.suites import load_suite

    if not part.name.startswith("scores/"):
        return None
    suite = load_suite("mini")
    step = int(part.name.split("/")[3].removeprefix("step="))
    store = Store.create(folder / "store")
    store.claim(suite, {"suite": "mini", "dtype": "float64"})
    ids = np.arange(part.first, part.stop)
    some = SimpleNamespace(matched_prefix=np.zeros(len(ids), np.uint8), match_mask=None, continuation_ll=None)
    checkpoint = suite.checkpoint(suite.models[0], step)
    return Path(store.write_scores(checkpoint, part.first, part.stop, ids, some, "x").path).read_bytes()


def check(
    harness: Harness,
    where: str,
    expected: set[str],
    may_be_left: Iterable[str] = (),
    at_work: bool = False,
) -> None:
    """What verify says is what was done, and what is whole is right. `at_work`: a run may write meanwhile."""
    store = Store(where)
    if not Store.is_at(where) or "memoserve.json" not in store.files.names(""):
        return  # killed before it made one
    if at_work:
        named = damaged_now(store)
    else:
        verified = subprocess.run(
            harness.command("verify", where), capture_output=True, text=True, check=False
        )
        lines = verified.stdout.splitlines() if verified.returncode == 3 else []
        named = {line.partition(": ")[0] for line in lines}
        if verified.returncode not in (0, 3) or "Traceback" in verified.stderr:
            harness.bad(f"{where}: verify ended with {verified.returncode}: {verified.stderr[-300:]}")
    # A writer that was killed leaves its temporary file, and says nothing else.
    left = {name for name in named - expected if name.endswith(".tmp")}
    if named - left - set(may_be_left) != expected:
        harness.bad(f"{where}: damaged {sorted(expected)}, verify named {sorted(named)}")
    for part in list(all_parts(store)):
        if part.name in named or not part.name.startswith("scores/"):
            continue
        step = int(part.name.split("/")[3].removeprefix("step="))
        try:
            table = read_part(store.files, part, store.fingerprint("mini"), SCORES)
        except FileNotFoundError:
            if at_work:  # mended since
                continue
            raise
        part_ids = table.column("sequence_id").to_numpy()
        part_prefix = table.column("matched_prefix").to_numpy()
        ids, prefix = harness.reference[step]
        harness.now.rows_compared += len(part_ids)
        if not (
            np.array_equal(part_ids, ids[part.first : part.stop])
            and np.array_equal(part_prefix, prefix[part.first : part.stop])
        ):
            harness.bad(f"{where}: {part.name} is not what the undisturbed run says")
    if not at_work and named <= left:
        check_memorized(harness, where)


def check_memorized(harness: Harness, where: str) -> None:
    """What queries say is memorized is what the parts that are there say."""
    store = Store(where)
    expected = []
    for checkpoint in CHECKPOINTS:
        model, _, step = checkpoint.partition("@")
        ids, prefix = harness.reference[int(step)]
        known = set(ids[prefix == 32].tolist())
        for part in store.parts("mini", model, int(step)):
            expected += [(model, int(step), i) for i in range(part.first, part.stop) if i in known]
    with connect(where) as connection:
        found = connection.execute("SELECT model, step, sequence_id FROM memorized ORDER BY ALL").fetchall()
    harness.now.answers_compared += 1
    if found != sorted(expected):
        harness.bad(f"{where}: {len(found)} are memorized by queries, and {len(expected)} are")


def all_parts(store: Store) -> Iterator[Part]:
    """The parts of a store, with those of windows."""
    yield from store.sequence_parts("mini")
    for checkpoint in CHECKPOINTS:
        model, _, step = checkpoint.partition("@")
        yield from store.parts("mini", model, int(step))


def check_lists(harness: Harness, where: str) -> None:
    """A whole store has one list beside each checkpoint's parts, and one beside the windows."""
    store = Store(where)
    for folder in (
        "sequences/suite=mini",
        *(f"scores/suite=mini/model={c.replace('@', '/step=')}" for c in CHECKPOINTS),
    ):
        lists = [name for name in store.files.names(folder) if name.startswith(("memorized-", "repeats-"))]
        if len(lists) != 1:
            harness.bad(f"{where}: {folder} has the lists {lists}")


def damaged_now(store: Store) -> set[str]:
    """What of a store is damaged, but for what dead writers left."""
    from memoserve.store.verify import verify

    return {one.name for one in verify(store.path).damages if not one.name.endswith(".tmp")}


def snapshot(store: Store) -> dict[str, bytes]:
    """The whole parts of a store, by name."""
    damaged = damaged_now(store)
    return {part.name: store.files.read(part.name) for part in all_parts(store) if part.name not in damaged}


def contents(store: Store) -> dict[int, Any]:
    """Ids and matched prefixes of every checkpoint, and the windows as step -1."""
    found = {}
    for checkpoint in CHECKPOINTS:
        model, _, step = checkpoint.partition("@")
        scores = store.read_scores("mini", model, int(step), 0, SEQUENCES)
        found[int(step)] = (scores.sequence_id, scores.matched_prefix)
    return {**found, -1: store.read_sequences("mini", 0, SEQUENCES)}


if __name__ == "__main__":
    sys.exit(main())
