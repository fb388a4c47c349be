"""What the command and everything that it started use, looked at now and then, and what the kernel counted when it is over."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

from msgspec import Struct

from trainbus.bus.events import Metric, System
from trainbus.machine.text import UnknownError
from trainbus.machine.training import Training
from trainbus.plugins.memory.config import MemoryConfig
from trainbus.plugins.memory.deaths import Death, Sighting, inquest, sight
from trainbus.plugins.memory.machine import Machine


class ResourcesStats(Struct, frozen=True, kw_only=True):
    """Looks so far, the largest size of the tree in bytes (shared pages counted for each process) and its largest number of processes."""

    looks: int
    rss: int
    processes: int


class Resources:
    """Looks at one process tree.

    Args:
        run: Whose it is.
        pid: Its root.
        wall: Nanoseconds since the epoch.
    """

    def __init__(self, run: str, pid: int, wall: Callable[[], int] = time.time_ns) -> None:
        self._training = Training(run, pid, wall())
        self._wall = wall
        self._machine = Machine(socket.gethostname(), MemoryConfig())
        self._seen: Sighting | None = None
        self._last: System | None = None
        self._looks = self._rss = self._processes = 0

    def look(self) -> list[Metric]:
        """What the tree uses now, as points of series; nothing once it is gone."""
        event = self._read()
        self._looks += 1
        process = next(iter(event.processes), None)
        if process is None:
            return []
        self._seen = sight(event, process, self._seen)
        self._rss, self._processes = max(self._rss, process.rss), max(self._processes, process.processes)
        gpus = [one.memory for gpu in event.gpus for one in gpu.processes or () if one.run and one.memory is not None]
        series = (
            ("tree_rss", process.rss, "bytes"),
            ("tree_pss", process.pss, "bytes"),
            ("tree_cpu", process.cpu_percent, "percent"),
            ("tree_processes", process.processes, ""),
            ("tree_files", process.files, ""),
            ("tree_gpu_memory", sum(gpus) if gpus else None, "bytes"),
        )
        return [Metric(name=name, value=float(value), unit=unit) for name, value, unit in series if value is not None]

    def inquest(self) -> Death | None:
        """What the kernel's counters and log say of the command's death; None when it was never seen alive."""
        if self._seen is None:
            return None
        with contextlib.suppress(OSError, UnknownError):
            return inquest(self._read(), self._training.run, self._seen)
        return None

    def stats(self) -> ResourcesStats:
        """Peaks so far."""
        return ResourcesStats(looks=self._looks, rss=self._rss, processes=self._processes)

    def close(self) -> None:
        """Let files and libraries go."""
        self._machine.close()

    def _read(self) -> System:
        event = self._machine.look([self._training], [])
        event.time = self._wall()
        return event
