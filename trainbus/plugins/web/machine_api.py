"""Machines as monitoring scripts want them: memory and GPUs of the host that was heard of last, in fixed fields."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct, field

from trainbus.bus import events

GIB = 1024**3

HIGH, MEDIUM = 85.0, 70.0
"""Percent of memory used from which a machine without a judgement of its own counts as at high or medium risk."""


class TrainingMemory(Struct, kw_only=True):
    """The process tree of a training."""

    run: str
    pid: int
    mb: float


class MemoryStats(Struct, kw_only=True):
    """Memory of one machine; None where nothing is known. ``age`` is the reading's age in seconds."""

    host: str = ""
    age: float | None = None
    total_gb: float | None = None
    used_gb: float | None = None
    available_gb: float | None = None
    percent: float | None = None
    swap_total_gb: float | None = None
    swap_used_gb: float | None = None
    swap_percent: float | None = None
    oom_risk: str | None = None
    reason: str = ""
    training: list[TrainingMemory] = field(default_factory=list)


class GpuStats(Struct, kw_only=True):
    """One GPU; None where the driver did not say."""

    host: str
    index: int
    name: str
    temperature: float | None
    utilization: float | None
    memory_utilization: float | None
    memory_used_gb: float | None
    memory_total_gb: float | None
    power: float | None
    power_limit: float | None


class GpusStats(Struct, kw_only=True):
    """All GPUs of all machines; None when no machine has reported any."""

    gpus: list[GpuStats] | None = None


def memory_stats(systems: Iterable[events.System], host: str, now: int) -> MemoryStats:
    """Memory of ``host``, or of the machine that reported last; all None when there is none."""
    known = [system for system in systems if system.memory and (not host or system.host == host)]
    if not known:
        return MemoryStats(host=host)
    system = max(known, key=lambda each: each.time)
    memory, swap = system.memory or events.Memory(), system.swap
    available = memory.available if memory.available is not None else memory.total - memory.used
    percent = 100 * (memory.total - available) / memory.total if memory.total else None
    return MemoryStats(
        host=system.host,
        age=max(0.0, (now - system.time) / 1e9),
        total_gb=memory.total / GIB,
        used_gb=(memory.total - available) / GIB,
        available_gb=available / GIB,
        percent=percent,
        swap_total_gb=swap.total / GIB if swap else None,
        swap_used_gb=swap.used / GIB if swap else None,
        swap_percent=100 * swap.used / swap.total if swap and swap.total else None,
        oom_risk=system.risk or _risk(percent),
        reason=system.reason,
        training=[
            TrainingMemory(run=process.run, pid=process.pid, mb=process.rss / 1024**2)
            for process in system.processes
            if process.run or process.role in ("trainer", "training")
        ],
    )


def gpu_stats(systems: Iterable[events.System]) -> GpusStats:
    """Every GPU that was ever reported, with its newest figures."""
    found = [_gpu(system.host, gpu) for system in systems for gpu in system.gpus]
    return GpusStats(gpus=found or None)


def _gpu(host: str, gpu: events.Gpu) -> GpuStats:
    return GpuStats(
        host=host,
        index=gpu.index,
        name=gpu.name,
        temperature=gpu.temperature,
        utilization=gpu.utilization,
        memory_utilization=100 * gpu.memory_used / gpu.memory_total if gpu.memory_used is not None and gpu.memory_total else None,
        memory_used_gb=None if gpu.memory_used is None else gpu.memory_used / GIB,
        memory_total_gb=None if gpu.memory_total is None else gpu.memory_total / GIB,
        power=gpu.power,
        power_limit=gpu.power_limit,
    )


def _risk(percent: float | None) -> str | None:
    if percent is None:
        return None
    return "high" if percent > HIGH else "medium" if percent > MEDIUM else "low"
