"""Events as points of named series: what charts, whoever draws them, are made of.

A step's metrics keep their names, an evaluation's stand under ``eval/`` (and the data set's name), a machine's under ``system/``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from trainbus.bus import events

NO_RUN = "trainbus"
"""The run under which events without one are filed: those of the machine and of the bus itself."""


class Point(Struct, frozen=True):
    """One value. ``step`` is None where the event has none, ``time`` is in nanoseconds since the epoch."""

    run: str
    name: str
    value: float
    step: int | None
    time: int


def points(event: events.AnyEvent) -> Iterator[Point]:
    """The points of an event; none for events that hold no series."""
    run, time = event.run or NO_RUN, event.time
    if isinstance(event, events.Step):
        behind = f"/rank{event.rank}" if event.rank else ""
        for name, value in event.metrics.items():
            yield Point(run, name + behind, float(value), event.step, time)
    elif isinstance(event, events.Eval):
        before = f"eval/{event.dataset}/" if event.dataset else "eval/"
        for name, value in event.metrics.items():
            yield Point(run, before + name, float(value), event.step, time)
    elif isinstance(event, events.Metric):
        yield Point(run, event.name, float(event.value), event.step, time)
    elif isinstance(event, events.System):
        for name, value in _system(event):
            yield Point(run, f"system/{event.host or 'host'}/{name}", value, None, time)


def _system(event: events.System) -> Iterator[tuple[str, float]]:
    if event.memory is not None:
        yield "memory_used", float(event.memory.used)
    if event.swap is not None:
        yield "swap_used", float(event.swap.used)
    if event.cpu_percent is not None:
        yield "cpu_percent", event.cpu_percent
    for disk in event.disks:
        yield f"disk_free{disk.path.rstrip('/').replace('/', '_') or '_'}", float(disk.free)
    for gpu in event.gpus:
        for name in ("memory_used", "utilization", "temperature", "power"):
            value = getattr(gpu, name)
            if value is not None:
                yield f"gpu{gpu.index}_{name}", float(value)


def flat(config: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """A run's configuration with dotted names."""
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
