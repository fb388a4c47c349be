"""One segment of a spool: a preallocated, memory-mapped file of records.

    segment header   32 bytes: magic, seq of the first record, crc of both
    record           length u32, crc u32, seq u64, payload      (little-endian, one after the other)

The crc is that of the payload, begun with the seq. A record counts only when its seq follows on the one before it, its length fits
and its crc holds: a torn record ends the segment, and so does what an earlier use of the file left behind it, whose seqs are lower.
Nothing is ever zeroed, and no end is stored.

Safe against kill -9, not against power loss: the pages belong to the kernel as soon as they are written to.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from typing import Any, TypeAlias
from zlib import crc32

Allocate: TypeAlias = Callable[[int, int, int], None]
"""``allocate(fd, offset, length)`` reserves disk blocks or raises OSError: os.posix_fallocate, or a test's broken one."""

HEADER_BYTES = 32
RECORD_BYTES = 16
SEQ_MASK = 0xFFFF_FFFF
UNUSED = 0xFFFF_FFFF_FFFF_FFFF

_MAGIC = b"TBSEG\x00\x00\x01"
_header = Struct("<8sQI")
_record = Struct("<IIQ")
pack_record = _record.pack
_unpack_record = _record.unpack_from
_unpack_length = Struct("<I").unpack_from

_MADV_POPULATE_WRITE = 23  # Linux 5.14; the mmap module doesn't name it before Python 3.15
_libc: Any = None


class Segment:
    """A mapped segment. The writer moves ``tail`` and ``next`` (see `Outbox.append`); everything else belongs to the owner thread.

    Reading needs no lock: records below ``next`` are whole and never change.
    """

    __slots__ = ("_faulted", "_read_at", "_read_seq", "first", "map", "next", "path", "size", "tail")

    def __init__(self, path: Path, memory: mmap.mmap) -> None:
        self.path = path
        self.map = memory
        self.size = len(memory)
        self.first = self.next = UNUSED
        self.tail = HEADER_BYTES
        self._faulted = 0
        self._read_seq, self._read_at = UNUSED, HEADER_BYTES

    def __repr__(self) -> str:
        return f"<Segment {self.path.name} seqs {self.first}..{self.next - 1}, {self.tail} of {self.size} bytes>"

    @classmethod
    def create(cls, path: Path, size: int, allocate: Allocate = os.posix_fallocate) -> Segment:
        """A new file of ``size`` bytes whose blocks are reserved, so that a full disk is an error here and no SIGBUS later.

        Raises:
            OSError: No space, no permission, ...; nothing is left behind.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            allocate(fd, 0, size)
            segment = cls(path, mmap.mmap(fd, size))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        segment.retire()
        return segment

    @classmethod
    def recover(cls, path: Path) -> Segment | None:
        """Open a segment that a dead process left, up to its last whole record; None when it holds none."""
        try:
            with path.open("rb") as file:
                memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file can't be mapped
            return None
        segment = cls(path, memory)
        segment._scan()
        if segment.first == segment.next:
            segment.close()
            return None
        return segment

    def begin(self, seq: int) -> None:
        """Take the segment into use: its first record will be ``seq``."""
        self._write_header(seq)
        self.tail = HEADER_BYTES
        self.first = self.next = seq
        self._read_seq, self._read_at = seq, HEADER_BYTES

    def retire(self) -> None:
        """Mark the segment as holding nothing; its old records stay where they are, and are never read again."""
        self._write_header(UNUSED)
        self.first = self.next = UNUSED

    def read(self, seq: int, events: int, size: int) -> list[bytes]:
        """Payloads of ``seq`` and what follows on it: up to ``events`` of them and ``size`` bytes, but at least one."""
        if seq < self._read_seq:
            self._read_seq, self._read_at = self.first, HEADER_BYTES
        current, position, memory, end = self._read_seq, self._read_at, self.map, self.next
        while current < seq:
            position += RECORD_BYTES + _unpack_length(memory, position)[0]
            current += 1
        bodies: list[bytes] = []
        while current < end and len(bodies) < events:
            (length,) = _unpack_length(memory, position)
            size -= length
            if size < 0 and bodies:
                break
            start = position + RECORD_BYTES
            position = start + length
            bodies.append(memory[start:position])
            current += 1
        self._read_seq, self._read_at = current, position
        return bodies

    def prefault(self, upto: int) -> None:
        """Have the pages up to ``upto`` ready, so that the writer does not fault on them. Releases the GIL; best effort.

        Where the kernel can't do it the writer pays about a microsecond for each page. Touching the pages from here instead would
        race with the writer's own bytes.
        """
        global _libc
        upto = min(self.size, upto + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE
        if upto <= self._faulted:
            return
        import ctypes  # 5 ms that `import trainbus` does not pay

        if _libc is None:
            _libc = ctypes.CDLL(None)
        start = self._faulted
        page = ctypes.c_char.from_buffer(self.map, start)
        done = _libc.madvise(ctypes.c_void_p(ctypes.addressof(page)), ctypes.c_size_t(upto - start), _MADV_POPULATE_WRITE) == 0
        self._faulted = upto if done else self.size

    def close(self) -> None:
        """Unmap; the file stays."""
        self.map.close()

    def trim(self) -> None:
        """Unmap, and give back what was reserved behind the last record."""
        self.close()
        os.truncate(self.path, self.tail)

    def _write_header(self, first: int) -> None:
        _header.pack_into(self.map, 0, _MAGIC, first, crc32(_MAGIC, first & SEQ_MASK))

    def _scan(self) -> None:
        """Find the records of a file of unknown state."""
        memory = self.map
        self.first = self.next = seq = 0
        if self.size < HEADER_BYTES:
            return
        magic, first, crc = _header.unpack_from(memory, 0)
        if magic != _MAGIC or first == UNUSED or crc != crc32(_MAGIC, first & SEQ_MASK):
            return
        seq, position = first, HEADER_BYTES
        while position + RECORD_BYTES < self.size:
            length, crc, found = _unpack_record(memory, position)
            start, end = position + RECORD_BYTES, position + RECORD_BYTES + length
            if found != seq or length == 0 or end > self.size or crc32(memory[start:end], seq & SEQ_MASK) != crc:
                break
            seq, position = seq + 1, end
        self.first, self.next, self.tail = first, seq, position
        self._read_seq, self._read_at = first, HEADER_BYTES
