"""A few numbers that a trainer and its test share: in a mapped file, so that they survive kill -9 of the trainer."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from resource import struct_rusage

RETURNED, LONGEST, STOP, SETTLED, OWN, LATE, WAITED = range(7)
LATE_SECONDS = 0.001
_NUMBERS = struct.Struct("=7Q16s")
_SOURCE = slice(56, 72)


class Board:
    """Opened by both sides; whoever comes first makes it."""

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(_NUMBERS.size)
            self._map = mmap.mmap(file.fileno(), _NUMBERS.size)
        self.numbers = memoryview(self._map)[: _SOURCE.start].cast("Q")

    def add_call(self, took: int, before: struct_rusage, after: struct_rusage) -> None:
        """A call that took so many nanoseconds, and what the kernel says of its thread before and after."""
        self.numbers[LONGEST] = max(took, self.numbers[LONGEST])
        if after.ru_nivcsw != before.ru_nivcsw:
            return
        self.numbers[OWN] = max(took, self.numbers[OWN])
        if took > LATE_SECONDS * 1e9:
            self.numbers[LATE] += 1
            self.numbers[WAITED] += any(getattr(after, name) != getattr(before, name) for name in ("ru_nvcsw", "ru_minflt", "ru_majflt"))

    @property
    def returned(self) -> int:
        """Calls of publish() that came back; kill -9 may strike between the event and this count."""
        return self.numbers[RETURNED]

    @property
    def longest(self) -> float:
        """Seconds that the longest call took."""
        return self.numbers[LONGEST] / 1e9

    @property
    def own(self) -> float:
        """The same without the calls in which the kernel gave the processor to somebody else: those the machine made long, not we."""
        return self.numbers[OWN] / 1e9

    @property
    def late(self) -> int:
        """Calls that took longer than `LATE_SECONDS` without such an interruption."""
        return self.numbers[LATE]

    @property
    def waited(self) -> int:
        """Those that waited for a lock, the interpreter or a page; in the others an interrupt or the hypervisor had the processor."""
        return self.numbers[WAITED]

    @property
    def source(self) -> str:
        """The publisher's id; empty until it is made."""
        return bytes(self._map[_SOURCE]).rstrip(b"\0").decode()

    @source.setter
    def source(self, source: str) -> None:
        self._map[_SOURCE] = source.encode().ljust(16, b"\0")
