"""One look at the whole machine: all readers together, and what each did not know."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from trainbus.bus.events import Disk, Gpu, Memory, MemoryGroup, System
from trainbus.machine.cgroups import Place, locate, read_group
from trainbus.machine.disks import read_disks, read_shm
from trainbus.machine.gpus import GpuReader, load_nvml
from trainbus.machine.kernel_log import KernelLog, interesting, parse_xid
from trainbus.machine.pacing import Paced
from trainbus.machine.proc import Vm, read_cpu, read_load, read_memory, read_pressure, read_vm
from trainbus.machine.processes import Tree
from trainbus.machine.text import UnknownError
from trainbus.machine.training import Training
from trainbus.plugins.memory.config import MemoryConfig
from trainbus.plugins.memory.levels import risk

PROC = Path("/proc")
SHM = Path("/dev/shm")
T = TypeVar("T")

GPU_PERIOD = 1.0
DISK_PERIOD = 5.0
SHM_PERIOD = 2.0
"""Seconds between readings of what is dear or slow to change."""


class Machine:
    """Everything that can be read of this machine.

    Args:
        host: Its name.
        config: Levels (for the risk) and whether GPUs are asked for.
        proc: Where the kernel's files are.
        now: Monotonic seconds.
    """

    def __init__(self, host: str, config: MemoryConfig, proc: Path = PROC, now: Callable[[], float] = time.monotonic) -> None:
        self.host = host
        self._config = config
        self._proc = proc
        self._now = now
        # psutil is loaded only where there is no /proc, NVML's module only where there is a driver: they would be a tenth of this process.
        self._portable: Any = None if (proc / "meminfo").exists() else importlib.import_module("trainbus.machine.portable")
        self._gpus = GpuReader(load_nvml, now) if config.gpus else None
        self._gpu_answers: Paced[tuple[list[Gpu], dict[str, str]]] | None = None
        if self._gpus is not None:
            self._gpu_answers = Paced(self._gpus.read, GPU_PERIOD, now)
        self._paths: tuple[Path, ...] = ()
        self._disks: Paced[tuple[list[Disk], dict[str, str]]] = Paced(lambda: read_disks(self._paths), DISK_PERIOD, now)
        self._shm: Paced[Memory] = Paced(lambda: read_shm(SHM), SHM_PERIOD, now)
        self._own: Paced[Place] = Paced(lambda: locate(proc, "self"), DISK_PERIOD, now)
        self._trees: dict[Training, Tree] = {}
        self._log: KernelLog | None = None
        self._log_reason = ""
        self._cpu: tuple[int, int] | None = None
        self._vm: tuple[float, Vm] | None = None

    def look(self, trainings: Sequence[Training], paths: Sequence[Path]) -> System:
        """Read everything once. May take as long as the slowest disk: not for an event loop."""
        event = System(host=self.host, cpus=os.cpu_count())
        self._memory(event)
        for name in ("memory", "io", "cpu"):
            pressure = self._try(event, "pressure" if name == "memory" else f"{name}_pressure", partial(read_pressure, self._proc, name))
            setattr(event, "pressure" if name == "memory" else f"{name}_pressure", pressure)
        event.load = self._try(event, "load", lambda: read_load(self._proc)) or []
        event.cpu_percent = self._try(event, "cpu_percent", self._cpu_percent)
        places = self._processes(event, trainings)
        self._groups(event, places)
        if tuple(paths) != self._paths:
            self._paths = tuple(paths)
            self._disks.forget()
        event.disks, unknown = self._disks.get()
        event.unknown |= {f"disk {path}": reason for path, reason in unknown.items()}
        event.shm = self._try(event, "shm", self._shm.get)
        self._kernel_log(event)
        self._read_gpus(event)
        event.risk, event.reason = risk(event, self._config)
        return event

    def close(self) -> None:
        """Let NVML and the kernel's log go."""
        if self._gpus is not None:
            self._gpus.close()
        if self._log is not None:
            self._log.close()
            self._log = None

    def _memory(self, event: System) -> None:
        if self._portable is not None:
            event.memory, event.swap = self._portable.read_memory()
            return
        found = self._try(event, "memory", lambda: read_memory(self._proc))
        if found is not None:
            event.memory, event.swap = found
        vm = self._try(event, "swap rate", lambda: read_vm(self._proc))
        if vm is None:
            return
        event.oom_kills = vm.oom_kills
        now, last = self._now(), self._vm
        self._vm = (now, vm)
        if last is not None and now > last[0] and event.swap is not None:
            event.swap.in_rate = (vm.swapped_in - last[1].swapped_in) / (now - last[0])
            event.swap.out_rate = (vm.swapped_out - last[1].swapped_out) / (now - last[0])

    def _processes(self, event: System, trainings: Sequence[Training]) -> list[Place]:
        """Fills in the trees and those that are gone; gives the places where their memory is accounted."""
        self._trees = {one: self._trees.get(one) or Tree(one, self._proc, self._now) for one in trainings}
        places = []
        for training, tree in self._trees.items():
            try:
                process = tree.read() if self._portable is None else self._portable.read_tree(training)
            except UnknownError as error:
                event.unknown[f"process{training.pid}"] = str(error)
                continue
            if process is None:
                event.gone.append(training.run)
                if tree.place is not None:
                    places.append(tree.place)
                continue
            event.processes.append(process)
            if tree.address_space is not None:
                event.groups.append(tree.address_space)
            if process.anon is None:
                event.unknown.setdefault("anon", "the kernel does not tell anonymous memory apart (before 4.5)")
            if process.pss is None:
                event.unknown.setdefault("pss", "shared pages of another user's process, or of a kernel before 4.14, can't be seen")
            if tree.place is not None:
                places.append(tree.place)
        return places

    def _groups(self, event: System, places: list[Place]) -> None:
        try:
            places = [*places, self._own.get()]
        except UnknownError as error:
            event.unknown["group"] = str(error)
        seen: dict[str, MemoryGroup] = {}
        for place in dict.fromkeys(places):
            group = self._try(event, f"group {place.directory}", partial(read_group, place))
            if group is not None:
                seen[group.path] = group
        event.groups += seen.values()

    def _kernel_log(self, event: System) -> None:
        if self._log is None and not self._log_reason:
            try:
                self._log = KernelLog()
            except UnknownError as error:
                self._log_reason = str(error)
        if self._log is None:
            event.unknown["kernel"] = self._log_reason
            return
        event.kernel = interesting(self._log.new())
        for line in event.kernel:
            fault = parse_xid(line)
            if fault is not None and self._gpus is not None:
                self._gpus.fault(*fault)

    def _read_gpus(self, event: System) -> None:
        if self._gpu_answers is None:
            return
        try:
            event.gpus, unknown = self._gpu_answers.get()
        except UnknownError as error:
            event.unknown["gpus"] = str(error)
            return
        event.unknown |= unknown
        runs = {pid: training.run for training, tree in self._trees.items() for pid in tree.pids}
        for gpu in event.gpus:
            for process in gpu.processes or ():
                process.run = runs.get(process.pid, "")

    def _cpu_percent(self) -> float | None:
        """Percent of all CPUs since the last look; None at the first, which has nothing to compare with."""
        busy, total = read_cpu(self._proc)
        last = self._cpu
        if last is not None and total <= last[1]:  # two looks within one tick of the clock
            return None
        self._cpu = (busy, total)
        if last is None:
            return None
        return max(0.0, min(100.0, 100.0 * (busy - last[0]) / (total - last[1])))

    @staticmethod
    def _try(event: System, name: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except UnknownError as error:
            event.unknown[name] = str(error)
            return None
