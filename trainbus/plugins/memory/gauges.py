"""Everything that has levels: host, control groups, pressure, trainings, GPUs, disks, open files; followed as alerts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from trainbus.bus.events import Disk, Process, System
from trainbus.plugins.memory.book import ORDER, Book
from trainbus.plugins.memory.config import MemoryConfig
from trainbus.plugins.memory.levels import Level, group_name, next_level, used_percent

HOST_ADVICE = "Save a checkpoint; then lower the batch size, the number of DataLoader workers or what else runs on this machine."
GROUP_ADVICE = (
    "Save a checkpoint; then raise the limit of the container or job, or lower the batch size or the number of DataLoader workers."
)
GPU_ADVICE = "Lower the batch size or the sequence length, or switch on gradient checkpointing."
PROCESS_ADVICE = "Look for lists that grow and for DataLoader workers that each hold a copy of the data."
PRESSURE_ADVICE = "Everything waits for memory: save a checkpoint and lower what runs here; swapping makes training many times slower."
DISK_ADVICE = "Free some: let retention keep fewer checkpoints, or write them to another disk. A save that finds no room is lost."
FILES_ADVICE = (
    "Raise the limit (ulimit -n), or set torch.multiprocessing's sharing strategy to file_system; look for files that are never closed."
)
XID_ADVICE = "NVIDIA lists the numbers under 'XID Errors'. 48, 63, 64, 74, 79, 94 and 95 ask for a reset of the GPU or for its exchange."
SHM_ADVICE = "DataLoader workers pass batches through /dev/shm: give the container more (docker run --shm-size), or use fewer workers."


class Gauge(Struct, frozen=True):
    """One value that has levels."""

    key: str
    rule: str
    what: str
    value: float
    levels: tuple[Level, ...]
    hysteresis: float
    unit: str
    advice: str
    run: str = ""


def gauges(event: System, config: MemoryConfig) -> Iterator[Gauge]:
    """What an event says of everything that has a level; what is not known has none."""
    run = biggest_run(event)
    margin = config.hysteresis
    host_levels = _two(config.host_warning, config.host_critical)
    percent = used_percent(event.memory)
    if percent is not None:
        yield Gauge("host", "host_memory", f"host memory of {event.host}", percent, host_levels, margin, "%", HOST_ADVICE, run)
    total = event.memory.total if event.memory else 0
    for group in event.groups:
        if group.limit and not 0 < total < group.limit:
            what, used = group_name(group), 100.0 * group.used / group.limit
            yield Gauge(f"group {group.path}", "group_memory", what, used, host_levels, margin, "%", GROUP_ADVICE, run)
    if event.pressure is not None and event.pressure.full is not None:
        what, levels = f"memory pressure (all tasks waiting) of {event.host}", _two(config.pressure_warning, config.pressure_critical)
        # Pressure is an average of ten seconds that swings: it must halve before it is over.
        yield Gauge(
            "pressure", "memory_pressure", what, event.pressure.full, levels, config.pressure_warning / 2, "%", PRESSURE_ADVICE, run
        )
    for gpu in event.gpus:
        if gpu.memory_total and gpu.memory_used is not None and gpu.slice is None:
            used, what = 100.0 * gpu.memory_used / gpu.memory_total, f"memory of GPU {gpu.index} of {event.host}"
            levels = _two(config.gpu_warning, config.gpu_critical)
            holder = max((one for one in gpu.processes or () if one.run), key=lambda one: one.memory or 0, default=None)
            yield Gauge(f"gpu{gpu.index}", "gpu_memory", what, used, levels, margin, "%", GPU_ADVICE, holder.run if holder else run)
    for disk in event.disks:
        yield from _disk(disk, config, run)
    if event.shm is not None and event.shm.total > 0:
        levels = _two(config.disk_warning, config.disk_critical)
        yield Gauge(
            "shm",
            "shared_memory",
            f"shared memory of {event.host}",
            100.0 * event.shm.used / event.shm.total,
            levels,
            margin,
            "%",
            SHM_ADVICE,
            run,
        )
    for process in event.processes:
        yield from _process(process, config)


def _disk(disk: Disk, config: MemoryConfig, run: str) -> Iterator[Gauge]:
    levels, margin = _two(config.disk_warning, config.disk_critical), min(config.hysteresis, 2.0)
    if disk.total:
        used = 100.0 * (disk.total - disk.free) / disk.total
        yield Gauge(f"disk {disk.path}", "disk_space", f"disk of {disk.path}", used, levels, margin, "%", DISK_ADVICE, run)
    if disk.inodes and disk.inodes_free is not None:
        used = 100.0 * (disk.inodes - disk.inodes_free) / disk.inodes
        yield Gauge(f"inodes {disk.path}", "disk_inodes", f"inode table of {disk.path}", used, levels, margin, "%", DISK_ADVICE, run)


def _process(process: Process, config: MemoryConfig) -> Iterator[Gauge]:
    name = process.name or str(process.pid)
    sizes = ((config.process_warning_bytes, "warning"), (config.process_critical_bytes, "critical"))
    levels = tuple(Level(size / 1e9, "critical" if severity == "critical" else "warning") for size, severity in sizes if size)
    if levels:
        margin = levels[0].threshold * config.hysteresis / 100
        key = f"process{process.pid}"
        yield Gauge(
            key, "process_memory", f"resident memory of {name}", process.rss / 1e9, levels, margin, "GB", PROCESS_ADVICE, process.run
        )
    if process.files_percent is not None:
        level = (Level(config.files_warning, "warning"),)
        key, what = f"files{process.pid}", f"number of open files of {name}"
        yield Gauge(key, "open_files", what, process.files_percent, level, config.hysteresis, "%", FILES_ADVICE, process.run)


def judge_gauges(event: System, config: MemoryConfig, book: Book) -> None:
    """Follow every gauge through its levels, and every fault that a GPU's driver reported; processes that ended clear theirs."""
    for gauge in gauges(event, config):
        known = book.open(gauge.key)
        # Kept levels are places in the order of severities; a gauge's are its own.
        before = 0 if known is None else sum(1 for level in gauge.levels if ORDER.index(level.severity) + 1 <= known.level)
        level = next_level(gauge.levels, before, gauge.value, gauge.hysteresis)
        shown = f"{gauge.value:.1f} {gauge.unit}"
        if level:
            reached = gauge.levels[level - 1]
            book.tell(
                event,
                gauge.key,
                gauge.rule,
                reached.severity,
                f"The {gauge.what} is at {shown}.",
                run=gauge.run,
                value=gauge.value,
                advice=gauge.advice,
                evidence={"unit": gauge.unit, "threshold": reached.threshold, "hysteresis": gauge.hysteresis, "processes": biggest(event)},
            )
        elif known is not None:
            message = f"The {gauge.what} is down to {shown}; it was at {known.peak:.1f} {gauge.unit}."
            book.clear(event, gauge.key, message, value=gauge.value, unit=gauge.unit)
    running = {str(process.pid) for process in event.processes}
    for kind, unit in (("process", "GB"), ("files", "%")):
        for key in book.keys(kind):
            if key.removeprefix(kind) not in running:
                book.clear(event, key, "The process ended.", unit=unit)
    for gpu in event.gpus:
        if gpu.xid is not None:
            key, message = f"xid gpu{gpu.index}", f"The driver reported fault (XID) {gpu.xid} of GPU {gpu.index} of {event.host}."
            known = book.open(key)
            news = known is not None and known.said != gpu.xid
            book.tell(event, key, "gpu_fault", "critical", message, run=biggest_run(event), value=gpu.xid, advice=XID_ADVICE, news=news)
            book.alerts[key].said = gpu.xid


def biggest_run(event: System) -> str:
    """The run that holds most memory; empty when none is watched."""
    most = max((process for process in event.processes if process.run), key=lambda process: process.rss, default=None)
    return most.run if most else ""


def biggest(event: System) -> list[dict[str, Any]]:
    """The five biggest trainings, for an alert's evidence."""
    found = sorted(event.processes, key=lambda process: -process.rss)[:5]
    return [{"pid": process.pid, "name": process.name, "run": process.run, "rss": process.rss} for process in found]


def _two(warning: float, critical: float) -> tuple[Level, Level]:
    return Level(warning, "warning"), Level(critical, "critical")
