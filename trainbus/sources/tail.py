"""The whole lines that were added to a growing file, since the last look: through rotation, truncation and half lines, across restarts.

A `Place` is where the reading stands. It is plain values, to be kept durably; with it another process goes on at the next line.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

CHUNK = 256 * 1024
"""Bytes of one look; the rest comes with the next one. A line that is longer is taken in pieces."""
MARK = 64
"""Bytes before the place that must still be the same: a file that was replaced in place may have grown past it meanwhile."""


class Place(Struct):
    """Behind the last line that was read: ``offset`` bytes into the file with this ``inode``; ``mark`` is a checksum of what is before."""

    inode: int = 0
    offset: int = 0
    mark: int = 0


class Tail:
    """Reads one file.

    Args:
        path: It needs not exist yet.
        place: Where an earlier reader stood.
        ends: What ends a line. A progress bar ends its lines by a carriage return.
    """

    def __init__(self, path: Path, place: Place | None = None, ends: bytes = b"\n") -> None:
        self.path = path
        self.place = place or Place()
        self.replaced = 0
        """How often the file turned out to be another one, or to be cut."""
        self._ends = ends

    def look(self) -> list[str]:
        """The lines that have been added, without their ends; empty when there are none, or no file.

        Raises:
            OSError: It can't be read.
        """
        try:
            stream = self.path.open("rb")
        except FileNotFoundError:
            return []
        with stream:
            inode = os.fstat(stream.fileno()).st_ino
            if self.place.inode and (inode != self.place.inode or not self._is_same(stream)):
                rest = self._rotated()
                if rest:
                    return rest
                self.replaced += 1
                self.place = Place()
            self.place.inode = inode
            return self._lines(stream, last=False)

    def _rotated(self) -> list[str]:
        """What was left to read in the file that has been renamed, by logrotate for example: it lies beside the new one."""
        for other in sorted(self.path.parent.glob(f"{glob_name(self.path.name)}*")):
            try:
                if other == self.path or other.stat().st_ino != self.place.inode:
                    continue
                with other.open("rb") as stream:
                    if self._is_same(stream):
                        return self._lines(stream, last=True)
            except OSError:  # it is just being compressed, or removed
                continue
        return []

    def _is_same(self, stream: BinaryIO) -> bool:
        """Whether what lies before the place is what lay there."""
        size = min(MARK, self.place.offset)
        stream.seek(self.place.offset - size)
        return zlib.crc32(stream.read(size)) == self.place.mark

    def _lines(self, stream: BinaryIO, *, last: bool) -> list[str]:
        """Whole lines from the place on. ``last``: nobody writes to the file any more, so the end of the file ends a line."""
        stream.seek(self.place.offset)
        content = stream.read(CHUNK)
        end = max(content.rfind(bytes([sign])) for sign in self._ends) + 1
        if not end and (len(content) == CHUNK or last):
            end = len(content)
        if not end:
            return []
        whole = content[:end]
        if last and len(content) < CHUNK:
            whole, end = content, len(content)
        before = self.place.offset
        size = min(MARK, before + end)
        if end >= size:
            tail = whole[-size:]
        else:
            stream.seek(before + end - size)
            tail = stream.read(size)
        self.place.offset, self.place.mark = before + end, zlib.crc32(tail)
        for sign in self._ends[1:]:
            whole = whole.replace(bytes([sign]), self._ends[:1])
        return [line.decode("utf-8", "replace").removesuffix("\r") for line in whole.split(self._ends[:1]) if line.strip()]


def glob_name(name: str) -> str:
    """A name as a pattern that matches it alone."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)
