"""The process tree of a training."""

from __future__ import annotations

import psutil

from trainbus.bus.events import Process
from trainbus.plugins.memory.readers.proc import UnknownError
from trainbus.plugins.memory.training import Training

START_TOLERANCE = 2.0
"""Seconds: clocks of process start are coarse. A process that is younger than the run's start event is another one with its number."""


def read_tree(training: Training) -> Process | None:
    """Resident bytes of a training's process and all its descendants; shared pages count once for each process that maps them.

    Returns:
        None when the process is gone (also when its number belongs to another one by now).

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
