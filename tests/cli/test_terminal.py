"""The command line on a real terminal of 80 columns."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import duckdb
import pytest
from command_line import Cli, command

pytestmark = pytest.mark.thorough

WIDTH = 80
STYLE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
RUN = (
    *("run", "--engine", "transformers", "--mode", "extract", "--checkpoints", "116k@161,116k@1001"),
    *("--sequences", "0:3000", "--part-size", "100"),
)


class Terminal:
    """A program on a terminal."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._master = master
        self._read = b""

    def read(self) -> bool:
        """Take what it prints next; False: it has ended."""
        try:
            self._read += os.read(self._master, 1 << 16)
        except OSError:  # of a terminal that no process has any more
            return False
        return True

    @property
    def text(self) -> str:
        """What it has printed, without colours and moves of the cursor."""
        return STYLE.sub("", self._read.decode("utf-8", "replace"))

    def until(self, pattern: str) -> None:
        """Read until that was printed."""
        while not re.search(pattern, self.text):
            assert self.read(), self.text

    def end(self, code: int = 0) -> list[str]:
        """The lines of all that it printed."""
        while self.read():
            pass
        assert self.process.wait() == code, self.text
        return re.split(r"\r\n|\r|\n", self.text)


@contextmanager
def on_terminal(folder: Path, *arguments: str) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(
        command(*arguments), cwd=folder, stdin=slave, stdout=slave, stderr=slave, env=environment,
        start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_the_list_of_queries_is_broken_between_words(cli: Cli, tmp_path: Path) -> None:
    with on_terminal(tmp_path, "query", "--list") as terminal:
        lines = terminal.end()
    commands = [line for line in lines if line.startswith("    memoserve ")]
    assert len(commands) >= 30
    assert max(len(line) for line in lines if line not in commands) <= WIDTH
    assert " ".join(lines).split() == cli("query", "--list").stdout.split()


@pytest.mark.parametrize(
    "name",
    [
        *("run", "recommend", "plot", "report", "query", "query predictors", "suite check", "import csv"),
        *("show", "export", "scaling", "status", "serve", "doctor", "sql", "catalog", "sequences pack"),
    ],
)
def test_help_fills_its_paragraphs_and_breaks_no_word(tmp_path: Path, name: str) -> None:
    with on_terminal(tmp_path, *name.split(), "--help") as terminal:
        lines = [line.strip() for line in terminal.end()]
    assert max(map(len, lines)) <= WIDTH
    text = lines[: next(i for i, line in enumerate(lines) if line.startswith("╭"))]
    if "Columns:" in text:
        text = text[: text.index("Columns:")]
    for line, following in pairwise(text):
        if line and following:
            assert len(line) + 1 + len(following.split()[0]) > WIDTH - 2, (line, following)
    if name in ("plot", "report"):
        assert "memoserve[report]" in " ".join(text)
    # What an option takes is one word, whatever room there is.
    assert not [line for line in lines if re.search(r"│ --.* <[^>\s]*\s{2,}", line)]


def test_an_option_that_is_misspelt(cli: Cli) -> None:
    assert "(did you mean --list" in cli("query", "--lst", code=3).stderr
    assert "did you mean 'query'" in cli("quer", code=2).stderr.lower()
    assert "(did you mean target?)" in cli("query", "predictors", "--targt", "x", code=3).stderr
    assert "(did you mean predictors" in cli("query", "predictorz", code=3).stderr


@pytest.mark.engine
def test_a_run_shows_how_far_it_is_and_goes_on_after_control_c(tmp_path: Path) -> None:
    with on_terminal(tmp_path, *RUN) as terminal:
        # A bar for the checkpoint and one for all, each with what is done, the time, and what is left.
        terminal.until(r"116k@161\s+━\S*\s.*?\d+/3000 [\d,]+ sequences/s \d:\d\d:\d\d \d:\d\d:\d\d")
        terminal.until(r"all checkpoints\s+━\S*\s.*?\d+/6000\s+\d:\d\d:\d\d \d:\d\d:\d\d")
        terminal.process.send_signal(signal.SIGINT)
        lines = terminal.end(130)
    assert max(len(line) for line in lines if "━" in line) <= WIDTH
    said = "interrupted: whole parts are kept, the same command goes on from here"
    assert [line for line in lines if line.strip()][-1].strip() == said
    assert "Traceback" not in "\n".join(lines)
    files = {file: file.read_bytes() for file in tmp_path.glob("memoserve-out/scores/**/*.parquet")}
    assert 0 < len(files) < 60
    with on_terminal(tmp_path, *RUN) as terminal:
        terminal.end()
    assert {file: file.read_bytes() for file in files} == files
    counted = duckdb.connect().execute(
        "SELECT step, count(*), count(DISTINCT sequence_id) FROM read_parquet("
        f"'{tmp_path}/memoserve-out/scores/**/*.parquet', hive_partitioning = true) GROUP BY ALL ORDER BY 1"
    )
    assert counted.fetchall() == [(161, 3000, 3000), (1001, 3000, 3000)]
