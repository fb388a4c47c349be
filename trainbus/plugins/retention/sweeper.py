"""Empties the trash in a thread of its own: deleting gigabytes takes seconds that no hook has, and must not stall the training's writes."""

from __future__ import annotations

import logging
import os
import queue
import stat
import threading
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from trainbus.plugins.retention.recognition import opened
from trainbus.plugins.retention.trash import EMPTYING, TRASH, Trash, Trashed

PIECE_BYTES = 32 * 1024 * 1024
"""A tenth of a second at the default rate."""


class SweeperStats(Struct, frozen=True, kw_only=True):
    """Former checkpoints that wait, are gone for good, and could not be deleted; bytes that are gone."""

    waiting: int
    emptied: int
    failed: int
    bytes: int


class Sweeper:
    """Deletes what it is given, one after the other, no faster than ``bytes_per_second``.

    The thread is a daemon, so that the end of the process never waits for a disk; what is left is deleted next time.

    Args:
        bytes_per_second: Pauses between files keep to it.
        logger: For what can't be deleted.
        done: Called in the thread for each thing that is gone.
    """

    def __init__(self, bytes_per_second: float, logger: logging.Logger, done: Callable[[Trashed], None] = lambda _: None) -> None:
        self._rate = bytes_per_second
        self._logger = logger
        self._done = done
        self._waiting: queue.SimpleQueue[tuple[Trash, Trashed] | None] = queue.SimpleQueue()
        self._known: set[Path] = set()
        self._stop = threading.Event()
        self._emptied = self._failed = self._bytes = 0
        self._thread = threading.Thread(target=self._work, name="trainbus-retention-sweeper", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def add(self, trash: Trash, thing: Trashed) -> None:
        """Delete something of a trash soon. Adding it again changes nothing."""
        if thing.place not in self._known:
            self._known.add(thing.place)
            self._waiting.put((trash, thing))

    def close(self, timeout: float = 1.0) -> None:
        """Stop after the file that is being deleted, within ``timeout`` seconds."""
        self._stop.set()
        self._waiting.put(None)
        self._thread.join(timeout)

    def stats(self) -> SweeperStats:
        """Counts so far."""
        return SweeperStats(waiting=self._waiting.qsize(), emptied=self._emptied, failed=self._failed, bytes=self._bytes)

    def _work(self) -> None:
        while (task := self._waiting.get()) is not None and not self._stop.is_set():
            trash, thing = task
            try:
                if not empty(trash, thing, pause=self._pause):
                    return
                self._emptied += 1
                self._done(thing)
            except OSError as error:
                self._failed += 1
                self._logger.warning("%s can't be deleted and stays in the trash: %s", thing.place, error)
            finally:
                self._known.discard(thing.place)

    def _pause(self, size: int) -> bool:
        self._bytes += size
        return not self._stop.wait(size / self._rate)


def empty(trash: Trash, thing: Trashed, *, pause: Callable[[int], bool] = lambda _: True) -> bool:
    """Delete one thing for good: condemn it, then file by file, large ones piece by piece.

    Args:
        trash: Where it lies.
        thing: It.
        pause: Called with the bytes of each piece that is gone; False stops, and the rest is deleted another time.

    Returns:
        Whether nothing is left of it.

    Raises:
        OSError: A file can't be deleted; it can be tried again.
    """
    condemned = trash.condemn(thing)
    if condemned is None:
        return True
    place = condemned.place
    if place.parent.name != TRASH or not place.name.endswith(EMPTYING):
        raise OSError(f"{place} is no place in a trash")
    with opened(place) as handle:
        # By handles: a directory in it that becomes a symbolic link meanwhile leads nowhere else.
        for _, folders, files, directory in os.fwalk(".", topdown=False, dir_fd=handle):
            for name in files:
                if not _delete_file(name, directory, pause):
                    return False
            for name in folders:
                try:
                    os.rmdir(name, dir_fd=directory)
                except NotADirectoryError:
                    os.unlink(name, dir_fd=directory)
    place.rmdir()
    trash.emptied(condemned)
    return True


def _delete_file(name: str, directory: int, pause: Callable[[int], bool]) -> bool:
    """False when it was told to stop.

    Freeing gigabytes in one go holds up everybody's fsync on that disk, so a large file is shortened from its end before it is unlinked.
    Not one that has other names: a snapshot holds the same content by a hard link.
    """
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if stat.S_ISREG(found.st_mode) and found.st_size > PIECE_BYTES:
        handle = os.open(name, os.O_WRONLY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            while (found := os.fstat(handle)).st_nlink == 1 and found.st_size > PIECE_BYTES:
                os.ftruncate(handle, found.st_size - PIECE_BYTES)
                if not pause(PIECE_BYTES):
                    return False
        finally:
            os.close(handle)
    os.unlink(name, dir_fd=directory)
    return pause(found.st_size if found.st_nlink == 1 else 0)
