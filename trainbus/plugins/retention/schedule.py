"""Backs up versions that have no backup yet, in a thread of its own: an upload takes minutes that no hook has."""

from __future__ import annotations

import logging
import queue
import threading
from pathlib import Path

from msgspec import Struct

from trainbus.errors import TrainbusError
from trainbus.plugins.retention import backups, versions


class Done(Struct, frozen=True, kw_only=True):
    """What became of one pass: versions backed up, and what failed with its reason."""

    made: tuple[str, ...] = ()
    failed: dict[str, str] = {}


class Schedule:
    """One pass after the other over directories of versions.

    Args:
        directories: Of versions.
        address: Where the backups go.
        every: Seconds between the beginnings of two passes.
        logger: For what was done.
    """

    def __init__(self, directories: tuple[str, ...], address: str, every: float, logger: logging.Logger) -> None:
        self._directories = [Path(directory).expanduser() for directory in directories]
        self._address = address
        self._every = every
        self._logger = logger
        self._next = 0.0
        self._done: queue.SimpleQueue[Done] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def tick(self, now: float) -> list[Done]:
        """Begin a pass when it is time (``now`` is monotonic seconds); returns passes that have ended."""
        working = self._thread is not None and self._thread.is_alive()
        if self._address and self._directories and now >= self._next and not working:
            self._next = now + self._every
            self._thread = threading.Thread(target=self._pass, name="trainbus-retention-backup", daemon=True)
            self._thread.start()
        ended = []
        while not self._done.empty():
            ended.append(self._done.get())
        return ended

    def _pass(self) -> None:
        made, failed = [], {}
        for directory in self._directories:
            for version in versions.listed(directory):
                path = directory / version.name
                try:
                    if not backups.has(self._address, backups.version_name(directory, version.name)):
                        backups.back_up_version(directory, version.name, self._address)
                        made.append(str(path))
                except (TrainbusError, OSError, ImportError) as error:
                    failed[str(path)] = error.problem if isinstance(error, TrainbusError) else str(error)
                    self._logger.warning("%s could not be backed up: %s", path, error)
        self._done.put(Done(made=tuple(made), failed=failed))
