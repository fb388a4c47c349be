"""The disks as they are at this moment: how full, which checkpoints are on which, what is pinned, what lies in the trash."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from trainbus.plugins.retention.pins import pin_of
from trainbus.plugins.retention.planning import DiskState
from trainbus.plugins.retention.records import Record
from trainbus.plugins.retention.thinning import disposable
from trainbus.plugins.retention.trash import Trash, Trashed

Space = Callable[[Path], tuple[int, int]]
"""Total and free bytes of the file system that holds a path."""


def space(path: Path) -> tuple[int, int]:
    """As the system tells; free is what others than root can use."""
    found = os.statvfs(path)
    return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize


class Storage:
    """The trashes of all directories that hold checkpoints.

    Args:
        who: Stands in the ledgers.
        wall: Nanoseconds since the epoch.
        space: How full a disk is.
    """

    def __init__(self, who: str, *, wall: Callable[[], int] = time.time_ns, space: Space = space) -> None:
        self._who = who
        self._wall = wall
        self._space = space
        self._trashes: dict[Path, Trash] = {}

    def trash(self, root: Path) -> Trash:
        """The trash of a directory of checkpoints."""
        return self._trashes.setdefault(root, Trash(root, who=self._who, wall=self._wall))

    def trash_of(self, record: Record) -> Trash:
        """The trash that a checkpoint goes to."""
        return self.trash(Path(record.path).parent)

    def roots(self) -> list[Path]:
        """All directories that are known."""
        return list(self._trashes)

    def contents(self) -> list[tuple[Trash, Trashed]]:
        """What lies in all trashes, oldest first."""
        found = [(trash, thing) for trash in self._trashes.values() for thing in trash.contents()]
        return sorted(found, key=lambda pair: pair[1].entry.time)

    def find(self, identity: str) -> tuple[Trash, Trashed] | None:
        """What can be restored under that id, path or name, and the trash that holds it."""
        for trash in self._trashes.values():
            if (thing := trash.find(identity)) is not None:
                return trash, thing
        return None

    def disks(self, contents: Iterable[tuple[Trash, Trashed]]) -> list[DiskState]:
        """One for each file system that holds a known directory."""
        roots: dict[int, list[Path]] = {}
        for root in self._trashes:
            try:
                roots.setdefault(root.stat().st_dev, []).append(root)
            except OSError:
                continue  # unmounted: nothing is known of it, and nothing is done there
        in_trash: dict[Path, int] = {}
        for trash, thing in contents:
            in_trash[trash.root] = in_trash.get(trash.root, 0) + (thing.entry.bytes or 0)
        found = []
        for of_disk in roots.values():
            total, free = self._space(of_disk[0])
            trash_bytes = sum(in_trash.get(root, 0) for root in of_disk)
            directories = frozenset(map(str, of_disk))
            found.append(DiskState(name=mount_point(of_disk[0]), total=total, free=free, trash=trash_bytes, directories=directories))
        return found


def mount_point(path: Path) -> str:
    """Where the file system of a path is mounted, which is what people call it."""
    device = path.stat().st_dev
    for parent in path.parents:
        try:
            if parent.stat().st_dev != device:
                return str(path)
        except OSError:
            return str(path)
        path = parent
    return str(path)


def pinned(records: Iterable[Record]) -> dict[str, str]:
    """Checkpoint id → why it is pinned."""
    return {record.id: str(pin) for record in records if (pin := pin_of(Path(record.path))) is not None}


def look_at(record: Record) -> bool:
    """Fill in what thinning would free; whether anything is new."""
    if record.disposable is not None or not os.path.isdir(record.path):  # noqa: PTH112 - a hot loop over all records
        return False
    record.disposable = sum(disposable(Path(record.path)).values())
    return True
