"""The ledger of deletions: one line of JSON for each step, on the disk before the step is taken.

It lies in the trash folder itself, so that whoever finds the trash finds out what is in it. Blocks for the next lines are reserved
ahead, so that a full disk, of all things, can't keep us from deleting.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from trainbus.bus.events import DECODE_ERRORS
from trainbus.plugins.retention.records import Record

RESERVE_BYTES = 64 * 1024
"""Some two hundred lines."""
KEEP_SIZE = 1
"""FALLOC_FL_KEEP_SIZE: the blocks are ours, the file's size stays."""


class Entry(Struct, kw_only=True, omit_defaults=True):
    """One line.

    Args:
        time: Nanoseconds since the epoch.
        action: ``trashing``, ``thinning``, ``restoring``, ``emptying``: about to happen; ``restored``, ``thinned``, ``emptied``: done.
        path: Where the checkpoint has its place.
        trash: Name of its place in the trash folder.
        who: Plugin or person.
        policy: The limit that demanded it; empty when no policy kept it.
        files: What thinning takes out.
    """

    time: int
    action: str
    path: str
    id: str = ""
    run: str = ""
    step: int = 0
    bytes: int | None = None
    digest: str = ""
    metrics: dict[str, float] = {}
    reason: str = ""
    policy: str = ""
    who: str = ""
    trash: str = ""
    completed: int = 0
    files: list[str] = []

    def record(self) -> Record:
        """The checkpoint that it speaks of."""
        return Record(self.id, self.run, self.step, self.completed, self.path, self.bytes, self.digest, dict(self.metrics))


class Ledger:
    """An append-only JSONL file that several processes may write; a torn line, left by a kill, is passed over when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process at a time changes the trash. The folder must exist."""
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def write(self, entry: Entry) -> None:
        """Write a line; returns when it is on the disk.

        Raises:
            OSError: It could not be written, for example as the disk is full and the reserve used up.
        """
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            end = os.fstat(handle).st_size
            torn = end > 0 and os.pread(handle, 1, end - 1) != b"\n"
            line = b"\n" * torn + msgspec.json.encode(entry) + b"\n"
            if os.write(handle, line) != len(line):
                raise OSError(28, "No space left on device", str(self.path))
            os.fsync(handle)
            _reserve(handle)
        finally:
            os.close(handle)

    def reserve(self) -> None:
        """Have room for the next lines, also on a disk that is full by then."""
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            _reserve(handle)
        finally:
            os.close(handle)

    def entries(self) -> Iterator[Entry]:
        """All lines, oldest first."""
        try:
            file = self.path.open("rb")
        except (FileNotFoundError, NotADirectoryError):
            return
        with file:
            for line in file:
                try:
                    yield msgspec.json.decode(line, type=Entry)
                except DECODE_ERRORS:
                    continue


def _reserve(handle: int) -> None:
    """A file system without reservations does without: then the ledger takes its chance with everybody else."""
    fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if fallocate is not None:
        size = os.fstat(handle).st_size
        fallocate(ctypes.c_int(handle), ctypes.c_int(KEEP_SIZE), ctypes.c_long(size), ctypes.c_long(RESERVE_BYTES))
