"""The spool of one source: a directory that keeps its events until the broker has acknowledged them.

    HOME/spool/SOURCE/meta          identity, and two counters: acknowledged and published seqs (memory-mapped)
    HOME/spool/SOURCE/lock          flock-ed for as long as the owner lives, or somebody drains the spool
    HOME/spool/SOURCE/NNNNNN.seg    segments (`trainbus.bus.segment`); fully acknowledged ones are used again

A spool whose lock is free is an orphan: whoever gets the lock may send what it holds and remove it. Directories whose name begins
with a dot are being made or removed; a spool appears and disappears by a rename.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import shutil
import struct
import time
from array import array
from collections.abc import Iterable
from pathlib import Path

import msgspec

from trainbus.bus.events import DECODE_ERRORS
from trainbus.bus.home import private_directory
from trainbus.bus.segment import Allocate, Segment
from trainbus.errors import SpoolError

ACKNOWLEDGED, PUBLISHED = 0, 1
"""Places in `Spool.counters`: both name the seq after the last one."""

STALE_DRAFT_SECONDS = 60.0
"""A half-made spool older than this belongs to nobody: making one takes milliseconds."""

_MAGIC = b"TBSPOOL\x01"
_meta = struct.Struct("=8sQQI4x")  # native order, so that a counter is one store that kill -9 can't part
_COUNTERS = slice(8, 24)
_UNREADABLE = "A newer trainbus may be able to read it; delete the directory when its events are of no use."

_held: set[int] = set()
"""Lock files that this process holds open."""


def _forget_locks() -> None:
    """A forked child shares its parent's locks. It closes its descriptors, which unlocks nothing while the parent has them."""
    for fd in list(_held):
        with contextlib.suppress(OSError):
            os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_forget_locks)


class Identity(msgspec.Struct, kw_only=True, frozen=True):
    """Whose spool it is; ``created`` is wall clock in nanoseconds."""

    source: str
    run: str
    name: str = ""
    host: str = ""
    pid: int = 0
    owner: bool = False
    created: int = 0


def spool_root(root: Path) -> Path:
    """Where the spools of a home directory lie."""
    return root / "spool"


def try_lock(path: Path, *, shared: bool = False, create: bool = False) -> int | None:
    """Lock a spool directory; None when its owner lives, somebody else drains it, or it is gone. ``shared`` only looks.

    Raises:
        OSError: Only with ``create``: the lock file can't be made.
    """
    try:
        fd = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
    except OSError:
        if create:
            raise
        return None
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    _held.add(fd)
    return fd


def unlock(fd: int) -> None:
    """Let go of what `try_lock` gave."""
    _held.discard(fd)
    with contextlib.suppress(OSError):
        os.close(fd)


def read_meta(path: Path) -> tuple[Identity, int, int]:
    """Identity and counters (acknowledged, published) of a spool directory.

    Raises:
        SpoolError: There is no meta file, or it is none of ours.
    """
    try:
        content = (path / "meta").read_bytes()
        magic, acknowledged, published, length = _meta.unpack_from(content)
        identity = msgspec.json.decode(content[_meta.size : _meta.size + length], type=Identity) if magic == _MAGIC else None
    except (OSError, struct.error, *DECODE_ERRORS) as error:
        raise SpoolError(f"{path} is no readable spool: {error}", hint=_UNREADABLE, file=str(path)) from error
    if identity is None:
        raise SpoolError(f"{path} is no readable spool: its meta file is of another version, or damaged", hint=_UNREADABLE, file=str(path))
    return identity, acknowledged, published


def segment_files(path: Path) -> list[Path]:
    """The segment files of a spool directory."""
    return sorted(path.glob("*.seg"))


def remove_directory(path: Path) -> None:
    """Remove a spool at once for all who look (by a rename), then its files."""
    gone = path.with_name(f".gone-{path.name}")
    with contextlib.suppress(OSError):
        path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def remove_stale_drafts(root: Path) -> None:
    """Remove what processes left that were killed while making or removing a spool."""
    for path in spool_root(root).glob(".*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_DRAFT_SECONDS:
                lock = try_lock(path)
                if lock is not None or not (path / "lock").exists():
                    shutil.rmtree(path, ignore_errors=True)
                if lock is not None:
                    unlock(lock)


class Spool:
    """Makes, recycles and removes the files of one spool. Nothing touches the disk before the first `segment`.

    Args:
        segment_bytes: Size of each segment.
        total_bytes: Bound on all segments together. Two are always allowed: the one being written is never recycled.
        allocate: Reserves disk blocks; a test's may fail.
    """

    def __init__(
        self, root: Path, identity: Identity, *, segment_bytes: int, total_bytes: int, allocate: Allocate = os.posix_fallocate
    ) -> None:
        self.path = spool_root(root) / identity.source
        self.identity = identity
        self.segment_bytes = segment_bytes
        self.counters: memoryview | array[int] = array("Q", (0, 0))
        self._limit = max(2, total_bytes // segment_bytes)
        self._allocate = allocate
        self._free: list[Segment] = []
        self._made = 0
        self._count = 0
        self._orphan = False
        self._lock: int | None = None
        self._map: mmap.mmap | None = None

    @classmethod
    def recover(cls, path: Path, lock: int) -> tuple[Spool, list[Segment]]:
        """Open an orphan whose ``lock`` the caller holds (and gives away): its files in the order of their seqs.

        Raises:
            SpoolError: It can't be read.
        """
        identity, _, _ = read_meta(path)
        spool = cls(path.parent.parent, identity, segment_bytes=1, total_bytes=1)
        spool.path, spool._lock, spool._orphan = path, lock, True
        try:
            with (path / "meta").open("r+b") as file:
                spool._attach(mmap.mmap(file.fileno(), 0))
            found = [segment for file in segment_files(path) if (segment := Segment.recover(file))]
        except (OSError, ValueError) as error:
            raise SpoolError(f"{path} can't be opened: {error}", hint="Look at its permissions.", file=str(path)) from error
        return spool, sorted(found, key=lambda segment: segment.first)

    @property
    def bytes(self) -> int:
        """What the segments take on the disk."""
        return self._count * self.segment_bytes

    def segment(self) -> Segment:
        """An empty segment: a recycled one, or a new file. The first call makes the directory.

        Raises:
            OSError: The disk is full, read-only, ...
            SpoolError: The bound is reached.
        """
        if self._free:
            return self._free.pop()
        if self._count >= self._limit:
            problem = f"its bound of {self._limit * self.segment_bytes} bytes is reached"
            raise SpoolError(problem, hint="Start a broker, or raise [bus] spool_bytes.", file=str(self.path))
        if self._lock is None:
            self._create()
        segment = Segment.create(self.path / f"{self._made:06}.seg", self.segment_bytes, self._allocate)
        self._made += 1
        self._count += 1
        return segment

    def recycle(self, segment: Segment) -> None:
        """Take back a segment whose events are all acknowledged: to be used again, or, of an orphan, to be removed."""
        if self._orphan:
            segment.close()
            segment.path.unlink(missing_ok=True)
        else:
            segment.retire()
            self._free.append(segment)

    def close(self, segments: Iterable[Segment], *, keep: bool) -> None:
        """Unmap and unlock. With ``keep`` only what ``segments`` hold stays, for whoever drains it; otherwise nothing."""
        if self._map is None:
            return
        for segment in self._free:
            segment.close()
            segment.path.unlink(missing_ok=True)
        for segment in segments:
            if keep:
                segment.trim()
            else:
                segment.close()
        if isinstance(self.counters, memoryview):
            self.counters.release()
        self._map.close()
        self._map = None
        if not keep:
            remove_directory(self.path)
        if self._lock is not None:
            unlock(self._lock)
        self._lock = None

    def _create(self) -> None:
        """Make directory, lock and meta under a hidden name, so that a drainer never meets a spool without its lock held."""
        draft = private_directory(self.path.parent) / f".new-{self.path.name}"
        draft.mkdir(mode=0o700)
        lock = None
        try:
            lock = try_lock(draft, create=True)
            described = msgspec.json.encode(self.identity)
            handle = os.open(draft / "meta", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                size = _meta.size + len(described)
                self._allocate(handle, 0, size)
                memory = mmap.mmap(handle, size)
            finally:
                os.close(handle)
            _meta.pack_into(memory, 0, _MAGIC, *self.counters, len(described))
            memory[_meta.size :] = described
            draft.rename(self.path)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            if lock is not None:
                unlock(lock)
            raise
        self._lock = lock
        self._attach(memory)

    def _attach(self, memory: mmap.mmap) -> None:
        self._map = memory
        self.counters = memoryview(memory)[_COUNTERS].cast("Q")
