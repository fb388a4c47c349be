"""Empties the trash in a thread of its own: deleting gigabytes takes seconds that no hook has."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from trainbus.plugins.retention.disk import remove
from trainbus.plugins.retention.ledger import Entry, Ledger


class SweeperStats(Struct, frozen=True, kw_only=True):
    """Former checkpoints that wait, are gone for good, and could not be deleted."""

    waiting: int
    emptied: int
    failed: int


class Sweeper:
    """Deletes trash entries one after the other; starts with those that an earlier process left.

    Only entries that the ledger names are touched: a trash folder may hold other people's things. The thread is a daemon, so that
    the end of the process never waits for a disk; what is left is deleted next time.
    """

    def __init__(self, ledger: Ledger, logger: logging.Logger, wall: Callable[[], int]) -> None:
        self._ledger = ledger
        self._logger = logger
        self._wall = wall
        self._waiting: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._emptied = self._failed = 0
        self._thread = threading.Thread(target=self._work, name="trainbus-retention-sweeper", daemon=True)

    def start(self) -> None:
        """Begin with what is left from before."""
        for place in self._ledger.unemptied():
            if place.exists():
                self.add(place)
        self._thread.start()

    def add(self, place: Path) -> None:
        """Delete an entry of a trash soon."""
        self._waiting.put(place)

    def close(self, timeout: float = 1.0) -> None:
        """Finish what waits, for at most ``timeout`` seconds."""
        self._waiting.put(None)
        self._thread.join(timeout)

    def stats(self) -> SweeperStats:
        """Counts so far."""
        return SweeperStats(waiting=self._waiting.qsize(), emptied=self._emptied, failed=self._failed)

    def _work(self) -> None:
        while (place := self._waiting.get()) is not None:
            try:
                remove(place)
                self._ledger.write(Entry(time=self._wall(), action="emptied", path=str(place), trash=str(place)))
                self._emptied += 1
            except OSError as error:
                self._failed += 1
                self._logger.warning("%s can't be deleted and stays in the trash: %s", place, error)
