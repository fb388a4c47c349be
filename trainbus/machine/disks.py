"""The file systems that checkpoints, spool, journal and state are written to, and the shared memory that DataLoader workers use."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from trainbus.bus.events import Disk, Memory
from trainbus.machine.text import UnknownError


def read_disks(paths: Iterable[Path]) -> tuple[list[Disk], dict[str, str]]:
    """Each file system once, under the first path that lies on it; and by path why one is not known."""
    disks: dict[int, Disk] = {}
    unknown = {}
    for path in paths:
        try:
            device = path.stat().st_dev
            if device not in disks:
                said = os.statvfs(path)
                # f_bavail, not f_bfree: what is kept for root can't be used by a training. No inodes at all: btrfs and the like.
                disks[device] = Disk(
                    path=str(path),
                    total=said.f_blocks * said.f_frsize,
                    free=said.f_bavail * said.f_frsize,
                    inodes=said.f_files or None,
                    inodes_free=said.f_favail if said.f_files else None,
                )
        except OSError as error:
            unknown[str(path)] = error.strerror or str(error)
    return list(disks.values()), unknown


def read_shm(path: Path) -> Memory:
    """The shared memory under /dev/shm: its limit, what is in use, and how many segments there are.

    Raises:
        UnknownError: There is none.
    """
    try:
        said = os.statvfs(path)
        with os.scandir(path) as entries:
            segments = sum(1 for _ in entries)
    except OSError as error:
        raise UnknownError(f"{path} can't be read: {error.strerror or error}") from error
    free = said.f_bavail * said.f_frsize
    total = said.f_blocks * said.f_frsize
    return Memory(total=total, used=total - free, available=free, segments=segments)
