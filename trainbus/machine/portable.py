"""Where there is no /proc (macOS): what psutil can tell, which is enough for levels and for the size of a training."""

from __future__ import annotations

import psutil

from trainbus.bus.events import Memory, Process
from trainbus.machine.text import UnknownError
from trainbus.machine.training import START_TOLERANCE, Training


def read_memory() -> tuple[Memory, Memory]:
    """Host memory and swap."""
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    used = memory.total - memory.available
    return Memory(total=memory.total, used=used, available=memory.available), Memory(total=swap.total, used=swap.used)


def read_tree(training: Training) -> Process | None:
    """Resident bytes of a training's process and its descendants; None when the process is gone.

    Raises:
        UnknownError: The process is there and may not be looked at.
    """
    try:
        root = psutil.Process(training.pid)
        if root.create_time() > training.time / 1e9 + START_TOLERANCE or root.status() == psutil.STATUS_ZOMBIE:
            return None
        rss, count = root.memory_info().rss, 1
        for child in root.children(recursive=True):
            try:
                rss += child.memory_info().rss
                count += 1
            except psutil.NoSuchProcess:
                continue
        return Process(pid=training.pid, name=training.name or root.name(), role="trainer", run=training.run, rss=rss, processes=count)
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied as error:
        raise UnknownError(f"process {training.pid} may not be looked at: {error.msg or 'no permission'}") from error
