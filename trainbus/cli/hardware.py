"""The machine that a training would run on: memory, processors, GPUs, disk. What can't be read is left out."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from trainbus.cli.output import size
from trainbus.machine.cgroups import locate, read_group
from trainbus.machine.gpus import GpuReader, load_nvml
from trainbus.machine.proc import read_memory
from trainbus.machine.text import UnknownError

PROC = Path("/proc")


class Device(Struct, frozen=True):
    """One GPU, in bytes."""

    name: str
    total: int
    free: int


class Hardware(Struct, frozen=True, kw_only=True):
    """In bytes. ``memory`` is what this process may have: the host's, or less in a container."""

    memory: int | None = None
    available: int | None = None
    processors: int = 1
    devices: tuple[Device, ...] = ()
    disk: int | None = None

    def words(self) -> str:
        """In one line."""
        gpus = ", ".join(f"{gpu.name} ({size(gpu.total)})" for gpu in self.devices) or "no GPU"
        memory = f"{size(self.memory)} of memory" if self.memory is not None else "memory unknown"
        disk = f", {size(self.disk)} of disk free" if self.disk is not None else ""
        return f"{gpus}; {memory}, {self.processors} processors{disk}"


def look(folder: Path, proc: Path = PROC) -> Hardware:
    """This machine, with the disk of ``folder``."""
    memory = available = disk = None
    with suppress(UnknownError, OSError):
        ram, _ = read_memory(proc)
        memory, available = ram.total, ram.available
        group = read_group(locate(proc, "self"))
        if group is not None and group.limit and group.limit < memory:
            memory, available = group.limit, min(available or group.limit, group.limit - group.used)
    with suppress(OSError):
        disk = shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.is_dir())).free
    return Hardware(memory=memory, available=available, processors=os.cpu_count() or 1, devices=_devices(), disk=disk)


def _devices() -> tuple[Device, ...]:
    reader = GpuReader(load_nvml, time.monotonic)
    try:
        found, _ = reader.read()
    except UnknownError:
        return ()
    finally:
        reader.close()
    return tuple(
        Device(gpu.name, gpu.memory_total, gpu.memory_total - (gpu.memory_used or 0))
        for gpu in found
        if gpu.memory_total and gpu.slice is None
    )
