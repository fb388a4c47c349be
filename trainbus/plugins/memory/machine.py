"""One look at the whole machine: all readers together, and what each did not know."""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from msgspec import Struct

from trainbus.bus.events import System
from trainbus.plugins.memory.config import MemoryConfig
from trainbus.plugins.memory.levels import risk
from trainbus.plugins.memory.readers import GpuReader, UnknownError, read_disks, read_memory, read_pressure, read_tree
from trainbus.plugins.memory.training import Training

PROC = Path("/proc")


class Look(Struct, frozen=True):
    """What one look found: the event, and the trainings whose process is gone."""

    event: System
    gone: tuple[str, ...]


class Machine:
    """Everything that can be read of this machine.

    Args:
        host: Its name.
        config: Levels (for the risk) and whether GPUs are asked for.
        proc: Where the kernel's files are.
    """

    def __init__(self, host: str, config: MemoryConfig, proc: Path = PROC) -> None:
        self.host = host
        self._config = config
        self._proc = proc
        self._gpus = GpuReader(lambda: importlib.import_module("pynvml"), time.monotonic) if config.gpus else None
        self._cpu_known = False

    def look(self, trainings: Sequence[Training], paths: Sequence[Path]) -> Look:
        """Read everything once. May take as long as the slowest disk: not for an event loop."""
        event = System(host=self.host, cpu_percent=self._cpu())
        try:
            event.memory, event.swap = read_memory(self._proc)
        except UnknownError as error:
            event.unknown["memory"] = str(error)
        try:
            event.pressure = read_pressure(self._proc)
        except UnknownError as error:
            event.unknown["pressure"] = str(error)
        gone = []
        for training in trainings:
            try:
                process = read_tree(training)
            except UnknownError as error:
                event.unknown[f"process{training.pid}"] = str(error)
                continue
            if process is None:
                gone.append(training.run)
            else:
                event.processes.append(process)
        event.disks, unknown = read_disks(paths)
        event.unknown |= {f"disk {path}": reason for path, reason in unknown.items()}
        if self._gpus is not None:
            try:
                event.gpus, unknown = self._gpus.read()
                event.unknown |= unknown
            except UnknownError as error:
                event.unknown["gpus"] = str(error)
        event.risk, event.reason = risk(event.memory, event.pressure, self._config.host_warning, self._config.host_critical)
        return Look(event, tuple(gone))

    def close(self) -> None:
        """Let NVML go."""
        if self._gpus is not None:
            self._gpus.close()

    def _cpu(self) -> float | None:
        """Percent since the last look; psutil's first answer has nothing to compare with and is a meaningless 0.0."""
        percent = psutil.cpu_percent(interval=None)
        known, self._cpu_known = self._cpu_known, True
        return percent if known else None
