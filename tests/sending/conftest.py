from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trainbus.bus.config import BusConfig
from trainbus.bus.publisher import Publisher

SMALL = BusConfig(spool_segment_bytes=1_048_576, spool_bytes=20 * 1_048_576, memory_events=1_000, heartbeat_interval=0.2)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRAINBUS_HOME", str(tmp_path))
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def make(root: Path) -> Iterator[Callable[..., Publisher]]:
    """Makes publishers with a small spool; closes them at the end."""
    made: list[Publisher] = []

    def factory(**options) -> Publisher:
        publisher = Publisher("run-1", **{"root": root, "settings": SMALL, **options})
        made.append(publisher)
        return publisher

    yield factory
    for publisher in made:
        publisher.close(0.1)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[str], int]:
    """How many warnings contain a text."""
    caplog.set_level(logging.WARNING, "trainbus")
    return lambda text: sum(text in record.getMessage() for record in caplog.records)


class Disk:
    """A disk that can be full: stands in for os.posix_fallocate."""

    def __init__(self, *, full: bool = False) -> None:
        self.full = full

    def __call__(self, fd: int, offset: int, length: int) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        import os

        os.posix_fallocate(fd, offset, length)
