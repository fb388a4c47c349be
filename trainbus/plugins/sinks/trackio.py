"""The sink `trackio`: rows of Trackio's own SQLite database, which `trackio show` reads.

Every row carries an id that follows from journal and offset. Trackio passes over an id that it has: what a crash repeats changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from msgspec import Struct, field

from trainbus.bus import events
from trainbus.hookspecs import Context
from trainbus.plugins.sinks.config import SinkConfig, TrackioConfig
from trainbus.plugins.sinks.outflow import Writer
from trainbus.plugins.sinks.plugin import SinkPlugin, library
from trainbus.plugins.sinks.points import NO_RUN, points

LEVELS = {"info": "info", "warning": "warn", "critical": "error"}


class Rows(Struct):
    """What a batch brings for one run."""

    metrics: list[dict[str, float]] = field(default_factory=list)
    steps: list[int | None] = field(default_factory=list)
    times: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    config: dict[str, Any] | None = None
    alerts: list[events.Alert] = field(default_factory=list)


class TrackioWriter:
    """Rows, written by Trackio's storage in one transaction for each run of a batch.

    Args:
        storage: `trackio.sqlite_storage.SQLiteStorage`.
        project: Of the runs.
        journal: Of the offsets.
    """

    def __init__(self, storage: Any, project: str, journal: str) -> None:
        self._storage = storage
        self._project = project
        self._journal = journal

    def position(self) -> None:
        """Trackio can't say: the bus keeps it."""

    def write(self, batch: Sequence[events.AnyEvent], upto: int) -> None:
        """Insert the rows of each run."""
        by_run: dict[str, Rows] = {}
        for event in batch:
            self._gather(event, by_run.setdefault(event.run or NO_RUN, Rows()))
        for run, rows in by_run.items():
            if rows.metrics:
                self._storage.bulk_log(
                    self._project, run, rows.metrics, steps=rows.steps, timestamps=rows.times, config=rows.config, log_ids=rows.ids
                )
            if rows.alerts:
                self._storage.bulk_alert(
                    self._project,
                    run,
                    titles=[alert.rule for alert in rows.alerts],
                    texts=[alert.message for alert in rows.alerts],
                    levels=[LEVELS[alert.severity] for alert in rows.alerts],
                    steps=[alert.step for alert in rows.alerts],
                    timestamps=[_iso(alert.time) for alert in rows.alerts],
                    alert_ids=[f"{self._journal}:{alert.offset}" for alert in rows.alerts],
                )

    def close(self) -> None:
        """The storage holds nothing of ours."""

    def _gather(self, event: events.AnyEvent, rows: Rows) -> None:
        if isinstance(event, events.Alert):
            if event.state != "cleared":
                rows.alerts.append(event)
            return
        if isinstance(event, events.RunStarted):
            rows.config = {**event.config, "_Created": _iso(event.time)}
            values: dict[str, float] = {}
        else:
            values = {point.name: point.value for point in points(event)}
        # A configuration travels with a row only, so the beginning of a run is an empty one at its first step.
        if values or isinstance(event, events.RunStarted):
            step = getattr(event, "step", None)
            rows.metrics.append(values)
            rows.steps.append(event.resumed_step or 0 if isinstance(event, events.RunStarted) else step)
            rows.times.append(_iso(event.time))
            rows.ids.append(f"{self._journal}:{event.offset}")


def _iso(time: int) -> str:
    return datetime.fromtimestamp(time / 1e9, UTC).isoformat()


class TrackioSink(SinkPlugin):
    """``plugins = ["trackio"]``."""

    schema: ClassVar[type[SinkConfig]] = TrackioConfig
    kinds: ClassVar[frozenset[str]] = frozenset({"step", "eval", "metric", "system", "run_started", "alert"})

    def open(self, context: Context) -> Writer:
        """Trackio's storage. The folder must be known before Trackio is imported."""
        if context.config.directory:
            os.environ["TRACKIO_DIR"] = str(Path(context.config.directory).expanduser())
        storage = library("trackio.sqlite_storage", "trackio").SQLiteStorage
        return TrackioWriter(storage, context.config.project, context.journal)
