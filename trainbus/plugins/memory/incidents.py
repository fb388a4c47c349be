"""The life of a memory alert, as a function of `System` events: the same events give the same alerts, live and on replay."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from trainbus.bus.events import Alert, AlertState, System
from trainbus.plugins.memory.config import MemoryConfig
from trainbus.plugins.memory.levels import Level, next_level, used_percent

PLUGIN = "memory"
HOST_ADVICE = "Save a checkpoint; then lower the batch size, the number of DataLoader workers or what else runs on this machine."
GPU_ADVICE = "Lower the batch size or the sequence length, or switch on gradient checkpointing."
PROCESS_ADVICE = "Look for lists that grow and for DataLoader workers that each hold a copy of the data."


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


class Open(Struct, array_like=True):
    """An open alert, as it is kept in the plugin's state. ``run`` stays as it was raised, so that it is cleared where it was seen."""

    id: str
    level: int
    run: str
    peak: float


def gauges(event: System, config: MemoryConfig) -> Iterator[Gauge]:
    """What an event says of everything that has a level; what is not known has none."""
    percent = used_percent(event.memory)
    biggest = max((process for process in event.processes if process.run), key=lambda process: process.rss, default=None)
    run = biggest.run if biggest else ""
    if percent is not None:
        host_levels = (Level(config.host_warning, "warning"), Level(config.host_critical, "critical"))
        yield Gauge("host", "host_memory", f"host memory of {event.host}", percent, host_levels, config.hysteresis, "%", HOST_ADVICE, run)
    for gpu in event.gpus:
        if gpu.memory_total and gpu.memory_used is not None:
            used, what = 100.0 * gpu.memory_used / gpu.memory_total, f"memory of GPU {gpu.index} of {event.host}"
            gpu_levels = (Level(config.gpu_warning, "warning"),)
            yield Gauge(f"gpu{gpu.index}", "gpu_memory", what, used, gpu_levels, config.hysteresis, "%", GPU_ADVICE, run)
    if config.process_warning_bytes:
        threshold = config.process_warning_bytes / 1e9
        for process in event.processes:
            what, margin = f"resident memory of {process.name or process.pid}", threshold * config.hysteresis / 100
            levels = (Level(threshold, "warning"),)
            key = f"process{process.pid}"
            yield Gauge(key, "process_memory", what, process.rss / 1e9, levels, margin, "GB", PROCESS_ADVICE, process.run)


def judge(event: System, config: MemoryConfig, alerts: dict[str, Open]) -> Iterator[Alert]:
    """Follow every gauge through its levels.

    Args:
        event: The state of one machine.
        config: The levels.
        alerts: What is open on this machine, by gauge; changed here. The caller keeps it durably.

    Yields:
        ``raised`` when a level is reached, ``updated`` when it changes, ``cleared`` when it is left, also because a process ended.
    """
    seen = set()
    for gauge in gauges(event, config):
        seen.add(gauge.key)
        known = alerts.get(gauge.key)
        before = known.level if known else 0
        level = next_level(gauge.levels, min(before, len(gauge.levels)), gauge.value, gauge.hysteresis)
        if known is None and level == 0:
            continue
        if known is None:
            known = Open(f"{gauge.rule}:{event.host}:{gauge.key}:{event.time}", level, gauge.run, gauge.value)
        known.level, known.peak = level, max(known.peak, gauge.value)
        if level == 0:
            del alerts[gauge.key]
            yield _alert(event, gauge, known, "cleared")
        elif level != before:
            alerts[gauge.key] = known
            yield _alert(event, gauge, known, "updated" if before else "raised")
    running = {f"process{process.pid}" for process in event.processes}
    for key in [key for key in alerts if key.startswith("process") and key not in seen and key not in running]:
        ended = alerts.pop(key)
        yield Alert(
            run=ended.run,
            time=event.time,
            id=ended.id,
            rule="process_memory",
            category="memory",
            state="cleared",
            message="The process ended.",
            evidence={"peak": ended.peak, "unit": "GB", "host": event.host},
            plugin=PLUGIN,
        )


def _alert(event: System, gauge: Gauge, known: Open, state: AlertState) -> Alert:
    shown = f"{gauge.value:.1f} {gauge.unit}"
    if state == "cleared":
        message = f"The {gauge.what} is down to {shown}; it was at {known.peak:.1f} {gauge.unit}."
    else:
        message = f"The {gauge.what} is at {shown}."
    level = gauge.levels[max(known.level, 1) - 1]
    processes = sorted(event.processes, key=lambda process: -process.rss)[:5]
    return Alert(
        run=known.run,
        time=event.time,
        id=known.id,
        rule=gauge.rule,
        category="memory",
        severity=level.severity,
        state=state,
        message=message,
        evidence={
            "host": event.host,
            "value": gauge.value,
            "unit": gauge.unit,
            "peak": known.peak,
            "threshold": level.threshold,
            "hysteresis": gauge.hysteresis,
            "processes": [{"pid": process.pid, "name": process.name, "run": process.run, "rss": process.rss} for process in processes],
        },
        advice="" if state == "cleared" else gauge.advice,
        plugin=PLUGIN,
    )
