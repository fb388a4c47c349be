"""Levels with hysteresis, how full each memory is, and the risk of running out: pure functions of numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from trainbus.bus.events import Memory, MemoryGroup, Severity, System
from trainbus.plugins.memory.config import MemoryConfig

Risk: TypeAlias = Literal["", "low", "medium", "high"]

PRESSURE_MEDIUM = 10.0
PRESSURE_HIGH = 40.0
"""Percentage of the last 10 s in which all tasks waited for memory: from here on a machine is slow, and as good as stopped.

nohang (desktop) warns at 10 and acts at 40 of the same average, systemd-oomd kills at 60; a warning has to come before."""


class Level(Struct, frozen=True):
    """From ``threshold`` on an alert has this severity."""

    threshold: float
    severity: Severity


def next_level(levels: Sequence[Level], current: int, value: float, hysteresis: float) -> int:
    """Which level a value is at: 0 for none, 1 for the first of ``levels``, ...

    Up at once, down only when the value is ``hysteresis`` below the level's threshold: a value that trembles around one gives one
    alert, not many.

    Args:
        levels: By rising threshold.
        current: The level before.
        value: The new value.
        hysteresis: In the unit of the value.
    """
    level = current
    while level < len(levels) and value >= levels[level].threshold:
        level += 1
    while level > 0 and value < levels[level - 1].threshold - hysteresis:
        level -= 1
    return level


class Limit(Struct, frozen=True):
    """A memory that ends: ``key`` is ``host``, ``group PATH`` or ``gpuN``; ``used`` can't be reclaimed."""

    key: str
    what: str
    total: int
    used: int

    @property
    def room(self) -> int:
        """Bytes until its end."""
        return max(0, self.total - self.used)

    @property
    def percent(self) -> float:
        """How full it is."""
        return 100.0 * self.used / self.total


def used_percent(memory: Memory | None) -> float | None:
    """What can't be given to anybody any more, in percent of the total; None when it is not known."""
    if memory is None or memory.total <= 0 or memory.available is None:
        return None
    return 100.0 * (memory.total - memory.available) / memory.total


def limits(event: System) -> Iterator[Limit]:
    """The memories of a machine in which processes live: the host's, and that of each control group. Free swap puts the end off.

    A group's limit beyond the host's memory limits nothing.
    """
    memory, swap = event.memory, event.swap
    if memory is not None and used_percent(memory) is not None:
        spare = swap.total - swap.used if swap is not None else 0
        yield Limit("host", f"host memory of {event.host}", memory.total + spare, memory.total - (memory.available or 0))
    for group in event.groups:
        if group.limit and not (memory is not None and 0 < memory.total < group.limit):
            yield Limit(f"group {group.path}", group_name(group), group.limit, group.used)


def group_name(group: MemoryGroup) -> str:
    """What a limit is called."""
    return group.path if group.version == 0 else f"memory of the control group {group.path}"


def risk(event: System, config: MemoryConfig) -> tuple[Risk, str]:
    """The risk that something is killed for want of memory, with its reason in words.

    High from ``host_critical`` percent of the host or of a control group on, or when everything waits for memory; medium from
    ``host_warning`` on or when much waits; "" when nothing is known.
    """
    found = [(limit.percent, limit.what) for limit in limits(event)]
    percent = used_percent(event.memory)
    if percent is not None:  # swap puts the end off, and is no reason to call memory free
        found[0] = (percent, "host memory")
    full = event.pressure.full if event.pressure else None
    for group in event.groups:
        if group.pressure is not None and group.pressure.full is not None:
            full = max(full or 0.0, group.pressure.full)
    if not found and full is None:
        return "", "neither memory nor pressure can be read"
    most, what = max(found, default=(0.0, ""))
    used = f"{most:.0f} % of the {what} in use" if found else "host memory unknown"
    waits = f"all tasks waited for memory {full:.0f} % of the last 10 s" if full else ""
    if most >= config.host_critical:
        return "high", f"{used}, critical from {config.host_critical:g} %"
    if full is not None and full >= PRESSURE_HIGH:
        return "high", f"{waits}, {used}"
    if most >= config.host_warning:
        return "medium", f"{used}, warning from {config.host_warning:g} %"
    if full is not None and full >= PRESSURE_MEDIUM:
        return "medium", f"{waits}, {used}"
    return "low", used
