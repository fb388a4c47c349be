"""The host's memory of the event that it is working on, which survives its own sudden death.

A small file is mapped into memory: a write to it is a few bytes of memory (0.2 µs, no system call), and the kernel keeps it
when the process is killed. It is also locked, so that one plugin never runs twice on one home.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from pathlib import Path

import msgspec

from trainbus.bus.home import private_directory
from trainbus.errors import PluginError

_MAGIC = b"TBINFL1\0"
_HEAD = struct.Struct("<8sqq32s")  # magic, pid of the holder, offset at work (-1: none), its hook
_MARK = struct.Struct("<q32s")
_ENTRY = struct.Struct("<qq")  # offset, attempts
_MARK_AT = 16
_JOURNAL_AT = 56
_ENTRIES_AT = 120
_SIZE = 4096
MAX_ENTRIES = (_SIZE - _ENTRIES_AT) // _ENTRY.size
"""Offsets with attempts that are remembered. They are forgotten when the cursor passes them, so one or two is what happens."""


class Mark(msgspec.Struct, frozen=True):
    """The event that was being handled when the last host died."""

    offset: int
    hook: str


class InflightFile:
    """`delivery.Marks` in a mapped file.

    Raises:
        PluginError: Another host of this plugin holds the file.
    """

    def __init__(self, path: Path, plugin: str) -> None:
        private_directory(path.parent)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            head = os.pread(self._fd, _HEAD.size, 0)
            holder = _HEAD.unpack(head)[1] if len(head) == _HEAD.size else 0
            os.close(self._fd)
            problem = f"Plugin {plugin!r} already runs here (pid {holder})."
            raise PluginError(problem, hint="`trainbus status` shows it; stop that one first.", plugin=plugin, pid=holder) from None
        os.posix_fallocate(self._fd, 0, _SIZE)  # a full disk is an error here, and not a SIGBUS later
        self._map = mmap.mmap(self._fd, _SIZE)
        if self._map[:8] != _MAGIC:
            self._map[:] = bytes(_SIZE)
            self._map[:8] = _MAGIC
            self.clear()
        struct.pack_into("<q", self._map, 8, os.getpid())

    def bind(self, journal: str) -> None:
        """Say which journal the offsets belong to. What is known of another journal is forgotten: its offsets mean nothing here."""
        wanted = journal.encode()[:64].ljust(64, b"\0")
        if self._map[_JOURNAL_AT:_ENTRIES_AT] != wanted:
            self.clear()
            self.save_attempts({})
            self._map[_JOURNAL_AT:_ENTRIES_AT] = wanted

    def mark(self, offset: int, hook: bytes) -> None:
        """Remember that ``hook`` now works on ``offset``."""
        _MARK.pack_into(self._map, _MARK_AT, offset, hook)

    def clear(self) -> None:
        """Nothing is being worked on."""
        _MARK.pack_into(self._map, _MARK_AT, -1, b"")

    def marked(self) -> Mark | None:
        """The mark that is set."""
        offset, hook = _MARK.unpack_from(self._map, _MARK_AT)
        return None if offset < 0 else Mark(offset, hook.rstrip(b"\0").decode("ascii", "replace"))

    def load_attempts(self) -> dict[int, int]:
        """How often the plugin died on which offsets."""
        entries = (_ENTRY.unpack_from(self._map, _ENTRIES_AT + index * _ENTRY.size) for index in range(MAX_ENTRIES))
        return {offset: attempts for offset, attempts in entries if attempts}

    def save_attempts(self, attempts: dict[int, int]) -> None:
        """Replace them all. Beyond `MAX_ENTRIES` the oldest offsets are forgotten: they get more tries than they should."""
        kept = sorted(attempts.items())[-MAX_ENTRIES:]
        packed = b"".join(_ENTRY.pack(*entry) for entry in kept)
        self._map[_ENTRIES_AT:] = packed.ljust(_SIZE - _ENTRIES_AT, b"\0")

    def close(self) -> None:
        """Release the file for the next host."""
        self._map.close()
        os.close(self._fd)
