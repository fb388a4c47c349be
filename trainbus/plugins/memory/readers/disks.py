"""The file systems that checkpoints and state are written to."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from trainbus.bus.events import Disk


def read_disks(paths: Iterable[Path]) -> tuple[list[Disk], dict[str, str]]:
    """Each file system once, under the first path that lies on it; and by path why one is not known."""
    disks: dict[int, Disk] = {}
    unknown = {}
    for path in paths:
        try:
            device = path.stat().st_dev
            if device not in disks:
                usage = shutil.disk_usage(path)
                disks[device] = Disk(path=str(path), total=usage.total, free=usage.free)
        except OSError as error:
            unknown[str(path)] = error.strerror or str(error)
    return list(disks.values()), unknown
