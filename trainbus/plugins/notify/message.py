"""From an event to what a person reads."""

from __future__ import annotations

from msgspec import Struct

from trainbus.bus import events
from trainbus.bus.events import Severity

MAX_TEXT = 1_500
"""Characters; services cut or refuse longer ones."""


class Message(Struct, frozen=True, kw_only=True):
    """One notification.

    Args:
        key: What it is about: messages with the same key repeat each other.
        id: Unique to what is told; the same event gives the same one again.
    """

    id: str
    key: str
    run: str
    rule: str
    severity: Severity
    title: str
    text: str
    time: int


def of_alert(alert: events.Alert) -> Message:
    """An alert in two lines and its advice."""
    over = alert.state == "cleared"
    where = f" at step {alert.step:,}" if alert.step is not None else ""
    lines = [alert.message, *([alert.advice] if alert.advice else [])]
    others = [rule for rule in alert.evidence.get("rules", ()) if rule != alert.rule]
    if others:
        lines.append(f"Also: {', '.join(others)}.")
    return Message(
        id=f"{alert.id}:{alert.state}:{alert.severity}",
        key=f"{alert.run}:{alert.rule}",
        run=alert.run,
        rule=alert.rule,
        severity="info" if over else alert.severity,
        title=f"{'over: ' if over else ''}{alert.severity}: {alert.rule} in {alert.run or 'this machine'}{where}"[:200],
        text="\n".join(lines)[:MAX_TEXT],
        time=alert.time,
    )


def of_end(ended: events.RunEnded) -> Message:
    """How a run ended."""
    bad = ended.outcome in ("failed", "lost")
    where = f" at step {ended.step:,}" if ended.step is not None else ""
    lines = [line for line in (ended.reason, *ended.last_lines[-5:]) if line]
    return Message(
        id=f"{ended.run}:{ended.outcome}:{ended.time}",
        key=f"{ended.run}:{ended.outcome}",
        run=ended.run,
        rule=f"run_{ended.outcome}",
        severity="critical" if bad else "info",
        title=f"run {ended.run} {ended.outcome}{where}"[:200],
        text="\n".join(lines)[:MAX_TEXT] or f"The run is {ended.outcome}.",
        time=ended.time,
    )


def summary(messages: list[Message], why: str) -> Message:
    """Many messages as one: the worst first."""
    rank = {"critical": 0, "warning": 1, "info": 2}
    ordered = sorted(messages, key=lambda one: (rank[one.severity], one.time))
    worst = ordered[0]
    return Message(
        id=f"summary:{ordered[-1].id}",
        key="summary",
        run=worst.run,
        rule="summary",
        severity=worst.severity,
        title=f"{len(messages)} messages {why}",
        text="\n".join(f"- {one.title}" for one in ordered)[:MAX_TEXT],
        time=max(one.time for one in messages),
    )
