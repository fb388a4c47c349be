"""One word for how a run is doing, and why: the dot in the page's header."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

from msgspec import Struct

from trainbus.bus.events import Alert, System

Level: TypeAlias = Literal["ok", "warning", "critical", "ended", "unknown"]

SILENT_AFTER = 30.0
"""Seconds without any event of a running run until that is worth a warning."""


class Health(Struct, frozen=True):
    """A level with the reason that a person reads beside the dot."""

    level: Level
    reason: str


def judge(state: str, reason: str, alerts: Iterable[Alert], systems: Iterable[System], silent_for: float | None) -> Health:
    """The worst thing that is known of a run.

    Args:
        state: The run's state: running, completed, stopped, failed, lost; empty when nothing is known of it.
        reason: Why it is in this state.
        alerts: The run's alerts, in any state.
        systems: The newest report of each machine.
        silent_for: Seconds since the run's last sign of life.
    """
    if state in ("failed", "lost"):
        return Health("critical", f"Run {state}{': ' + reason if reason else ''}")
    standing = [alert for alert in alerts if alert.state != "cleared" and alert.severity != "info"]
    worst = next((alert for alert in reversed(standing) if alert.severity == "critical"), standing[-1] if standing else None)
    risky = next((system for system in systems if system.risk == "high"), None)
    if state == "running" and risky is not None:
        return Health("critical", f"Memory: {risky.reason or 'high risk of running out'}")
    if worst is not None and worst.severity == "critical":
        return Health("critical", worst.message or worst.rule)
    if state in ("completed", "stopped"):
        return Health("ended", f"Run {state}{': ' + reason if reason else ''}")
    if state != "running":
        return Health("unknown", "Nothing is known of this run yet")
    if silent_for is not None and silent_for > SILENT_AFTER:
        return Health("warning", f"No sign of life for {silent_for:.0f} s")
    if worst is not None:
        return Health("warning", worst.message or worst.rule)
    if (warm := next((system for system in systems if system.risk == "medium"), None)) is not None:
        return Health("warning", f"Memory: {warm.reason or 'medium risk of running out'}")
    return Health("ok", "Running, nothing to report")
