"""Levels with hysteresis, and the risk of running out of memory: pure functions of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from trainbus.bus.events import Memory, Pressure, Severity

Risk: TypeAlias = Literal["", "low", "medium", "high"]

PRESSURE_MEDIUM = 10.0
PRESSURE_HIGH = 40.0
"""Percentage of the last 10 s in which all tasks waited for memory: from here on a machine is slow, and as good as stopped.

systemd-oomd kills at 60 % over 30 s; a warning has to come before."""


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


def used_percent(memory: Memory | None) -> float | None:
    """What can't be given to anybody any more, in percent of the total; None when it is not known."""
    if memory is None or memory.total <= 0 or memory.available is None:
        return None
    return 100.0 * (memory.total - memory.available) / memory.total


def risk(memory: Memory | None, pressure: Pressure | None, warning: float, critical: float) -> tuple[Risk, str]:
    """The risk that something is killed for want of memory, with its reason in words.

    High from ``critical`` percent on or when everything waits for memory, medium from ``warning`` on or when much waits; "" when
    nothing is known.
    """
    percent = used_percent(memory)
    full = pressure.full if pressure else None
    if percent is None and full is None:
        return "", "neither memory nor pressure can be read"
    used = f"{percent:.0f} % of host memory in use" if percent is not None else "host memory unknown"
    waits = f"all tasks waited for memory {full:.0f} % of the last 10 s" if full else ""
    if percent is not None and percent >= critical:
        return "high", f"{used}, critical from {critical:g} %"
    if full is not None and full >= PRESSURE_HIGH:
        return "high", f"{waits}, {used}"
    if percent is not None and percent >= warning:
        return "medium", f"{used}, warning from {warning:g} %"
    if full is not None and full >= PRESSURE_MEDIUM:
        return "medium", f"{waits}, {used}"
    return "low", used
