"""Tells the bus about plugins: one event at each change that matters, one alert for each incident."""

from __future__ import annotations

import socket

from trainbus.bus import wire
from trainbus.bus.events import Alert, Event, Plugin

Told = tuple[str, int, int, int | None, int, str]


class Announcer:
    """Decides which events a change is worth. Sans-IO: returns what to publish."""

    def __init__(self) -> None:
        self._told: dict[str, Told] = {}
        self._alerts: dict[str, str] = {}
        self._host = socket.gethostname()

    def observe(self, status: wire.PluginStatus) -> list[Event]:
        """The events for a plugin's state now; empty when nothing that matters has changed since the last call.

        Lag counts by its order of magnitude: an event for each change of it would itself be lag for a plugin that reads all events.
        """
        magnitude = len(str(status.lag)) if status.lag is not None and status.lag >= 1000 else 0
        told: Told = (status.state, status.restarts, status.dead_letters, status.pid, magnitude, status.version)
        if self._told.get(status.name) == told:
            return []
        self._told[status.name] = told
        event = Plugin(
            name=status.name,
            state=status.state,  # type: ignore[arg-type] # a str on the wire, so that older readers take new states
            version=status.version,
            host=self._host,
            pid=status.pid,
            restarts=status.restarts,
            lag=status.lag,
            dead_letters=status.dead_letters,
            error=status.error,
        )
        return [event, *self._alert(status)]

    def forget(self, name: str) -> None:
        """The plugin was removed."""
        self._told.pop(name, None)
        self._alerts.pop(name, None)

    def _alert(self, status: wire.PluginStatus) -> list[Alert]:
        rule = {"failed": "plugin_failed", "stuck": "plugin_stuck"}.get(status.state)
        before = self._alerts.get(status.name)
        if rule is not None and rule != before:
            self._alerts[status.name] = rule
            what = "is parked as failed" if rule == "plugin_failed" else "hangs and is restarted"
            severity = "critical" if rule == "plugin_failed" else "warning"
            return [self._make(status, rule, f"Plugin {status.name} {what}: {status.error}", severity, "raised")]
        if status.state == "running" and before is not None:
            del self._alerts[status.name]
            return [self._make(status, before, f"Plugin {status.name} runs again.", "info", "cleared")]
        return []

    def _make(self, status: wire.PluginStatus, rule: str, message: str, severity: str, state: str) -> Alert:
        return Alert(
            id=f"{rule}:{self._host}:{status.name}",
            rule=rule,
            category="plugin",
            severity=severity,  # type: ignore[arg-type] # one of the two above
            state=state,  # type: ignore[arg-type]
            message=message,
            evidence={"restarts": status.restarts, "error": status.error},
            advice=f"See logs/{status.name}.log; then `trainbus plugins restart {status.name}`." if state == "raised" else "",
            plugin=status.name,
        )
