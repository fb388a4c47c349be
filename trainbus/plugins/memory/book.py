"""The open alerts and their life: raised once, updated when there is something new to say, cleared once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from trainbus.bus.events import Alert, Severity, System

PLUGIN = "memory"
ORDER: tuple[Severity, ...] = ("info", "warning", "critical")


class Open(Struct, array_like=True):
    """An open alert, as it is kept in the plugin's state. ``run`` stays as it was raised, so that it is cleared where it was seen."""

    id: str
    rule: str
    level: int
    run: str
    peak: float
    said: float = 0.0
    rate: float = 0.0


class Book:
    """Follows alerts by key. Ids follow from host, key and the time of the first look: a repeat changes nothing.

    Args:
        alerts: What is open, by key; changed here. The caller keeps it durably.
    """

    def __init__(self, alerts: dict[str, Open]) -> None:
        self.alerts = alerts
        self._out: list[Alert] = []

    def take(self) -> list[Alert]:
        """What is to be published since the last call."""
        out, self._out = self._out, []
        return out

    def tell(
        self,
        event: System,
        key: str,
        rule: str,
        severity: Severity,
        message: str,
        *,
        run: str = "",
        evidence: Mapping[str, Any] | None = None,
        advice: str = "",
        step: int | None = None,
        value: float = 0.0,
        news: bool = False,
    ) -> bool:
        """Something holds: raises its alert, or updates it when its severity changed or there is ``news``; whether it said so.

        Args:
            event: The look that shows it.
            key: What it is about; one alert is open for each key.
            rule: The alert's rule.
            severity: Of the alert now.
            message: In words.
            run: The run whose alert it is, if it is raised now.
            evidence: Numbers beside ``host``, ``value`` and ``peak``.
            advice: What to do.
            step: The run's step.
            value: What the alert is about; its peak is kept.
            news: Whether to update although the severity is the same.
        """
        level = ORDER.index(severity) + 1
        known = self.alerts.get(key)
        if known is None:
            known = self.alerts[key] = Open(f"{rule}:{event.host}:{key}:{event.time}", rule, 0, run, value)
        known.peak = max(known.peak, value)
        if known.level == level and not news:
            return False
        state, known.level = ("updated" if known.level else "raised"), level
        self._out.append(
            Alert(
                run=known.run,
                time=event.time,
                id=known.id,
                rule=rule,
                category="memory",
                severity=severity,
                state="updated" if state == "updated" else "raised",
                step=step,
                message=message,
                evidence={"host": event.host, "value": value, "peak": known.peak, **(evidence or {})},
                advice=advice,
                plugin=PLUGIN,
            )
        )
        return True

    def clear(self, event: System, key: str, message: str, *, value: float | None = None, **evidence: Any) -> None:
        """It holds no more; nothing when it was not open."""
        known = self.alerts.pop(key, None)
        if known is None:
            return
        self._out.append(
            Alert(
                run=known.run,
                time=event.time,
                id=known.id,
                rule=known.rule,
                category="memory",
                severity=ORDER[known.level - 1],
                state="cleared",
                message=message,
                evidence={"host": event.host, "value": value, "peak": known.peak, **evidence},
                plugin=PLUGIN,
            )
        )

    def open(self, key: str) -> Open | None:
        """The alert that is open for a key."""
        return self.alerts.get(key)

    def keys(self, prefix: str) -> list[str]:
        """Open keys that begin with ``prefix``."""
        return [key for key in self.alerts if key.startswith(prefix)]
