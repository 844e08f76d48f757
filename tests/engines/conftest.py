"""What the tests of engines share."""

from __future__ import annotations

import pytest
from command_line import engine_fork_server


@pytest.fixture(scope="session", autouse=True)
def forked_engines() -> None:
    """Start what engines are forked from before the first of them decides what it imports."""
    engine_fork_server()
