"""A home of its own for each test, a stand-in broker, and no sockets left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.reading.stand_in import Memory, StandIn


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRAINBUS_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def start(home: Path) -> Iterator[Callable[..., StandIn]]:
    """Starts stand-in brokers; each takes the place of the one before."""
    running: list[StandIn] = []

    def start(memory: Memory | None = None, **options: int) -> StandIn:
        for broker in running:
            broker.stop()
        running[:] = [StandIn(home, memory, **options).start()]
        return running[0]

    yield start
    for broker in running:
        broker.stop()


@pytest.fixture
def broker(start: Callable[..., StandIn]) -> StandIn:
    return start()
