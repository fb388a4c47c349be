"""Panels that plugins declare: the few fields of one kind of event that each of them draws, kept as rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from typing import Any

import msgspec

from trainbus.bus import events
from trainbus.hookspecs import Panel

ROWS = 2_000
"""Rows kept of a panel; of more, the oldest are forgotten."""

PANELS = 100
"""Panels of all plugins together; further ones are not drawn."""


class Row(msgspec.Struct, frozen=True):
    """What a panel draws of one event. ``values`` are in the order of the panel's fields."""

    offset: int
    run: str
    time: int
    x: Any
    values: list[Any]


class PanelBoard:
    """The declared panels and their rows."""

    def __init__(self) -> None:
        self._panels: dict[str, tuple[str, Panel]] = {}
        self._by_kind: dict[str, list[str]] = {}
        self._rows: dict[str, deque[Row]] = {}

    def declare(self, plugin: str, panels: list[Panel]) -> None:
        """Take in what a plugin declares, before the events that its panels draw."""
        for panel in panels:
            if len(self._panels) >= PANELS:
                return
            key = f"{plugin}/{panel.id}"
            self._panels[key] = (plugin, panel)
            self._rows[key] = deque(maxlen=ROWS)
            self._by_kind.setdefault(panel.events, []).append(key)

    def apply(self, event: events.AnyEvent) -> None:
        """Keep what the panels of this kind draw of the event; one that has none of the fields is no row."""
        for key in self._by_kind.get(event.kind, ()):
            _, panel = self._panels[key]
            values = [_at(event, path) for path in panel.fields]
            if any(value is not None for value in values):
                self._rows[key].append(Row(event.offset, event.run, event.time, _at(event, panel.x), values))

    def described(self, plugins: Container[str]) -> list[dict[str, Any]]:
        """The panels of these plugins, with the offset of their newest row."""
        return [
            {"key": key, "plugin": plugin, "newest": self._rows[key][-1].offset if self._rows[key] else -1} | msgspec.to_builtins(panel)
            for key, (plugin, panel) in self._panels.items()
            if plugin in plugins
        ]

    def rows(self, key: str, run: str) -> list[Row] | None:
        """Rows of a panel, oldest first: those of one run, and those that belong to none; None for an unknown panel."""
        rows = self._rows.get(key)
        return None if rows is None else [row for row in rows if not run or not row.run or row.run == run]


def _at(event: events.AnyEvent, path: str) -> Any:
    """The value at a dotted path; None where there is none."""
    value: Any = event.fields if isinstance(event, events.Other) and path.partition(".")[0] in event.fields else event
    for part in path.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list | tuple):
            value = value[int(part)] if part.isdigit() and int(part) < len(value) else None
        else:
            value = getattr(value, part, None) if isinstance(value, msgspec.Struct) and part in value.__struct_fields__ else None
    return msgspec.to_builtins(value) if isinstance(value, msgspec.Struct | list | dict) else value
