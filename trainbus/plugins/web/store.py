"""Everything that the page shows, built from the journal's events in the order of their offsets.

Pure: no socket, no clock; the answers of the API are made here from what the events said and the time that the caller gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import msgspec
from msgspec import Struct

from trainbus.bus import events
from trainbus.plugins.web.checkpoint_board import CheckpointsStats, disk_rows
from trainbus.plugins.web.health import judge
from trainbus.plugins.web.panel_board import PanelBoard
from trainbus.plugins.web.run_view import RunView, shown
from trainbus.plugins.web.series import Series

MEMORY_POINTS = 20_000
"""Readings of memory that are kept for each machine; more are thinned, their extremes stay."""

MACHINES, PLUGINS = 64, 200
"""Machines and plugins that are kept; the ones that were silent longest are forgotten."""

CENSUS_EVENTS = 5_000
"""After so many events all points are counted: the count may exceed its limit by what they bring."""

SHORTEST_THINNED = 100
"""Points below which a series is left as it is: it costs more by its name."""

LISTS = ("alerts", "checkpoints", "evals", "samples", "commands", "jobs")
"""Lists of a run, each with a version of its own."""

SIGNS_OF_LIFE = frozenset({"run_started", "phase", "step", "eval", "sample", "checkpoint", "metric", "heartbeat"})


class StoreStats(Struct, frozen=True):
    """``position`` is the offset up to which the store knows everything."""

    position: int
    events: int
    runs: int
    points: int
    runs_left_out: int


class Store:
    """The state of all runs.

    Args:
        points: Limit of each series.
        all_points: Limit of all series together: above it the longest are thinned, so that memory doesn't follow the number of runs.
        runs: Limit of runs.
        samples: Samples kept for each run.
    """

    def __init__(self, *, points: int = 200_000, all_points: int = 5_000_000, runs: int = 200, samples: int = 100) -> None:
        self.position = -1
        self.runs: dict[str, RunView] = {}
        self.plugins: dict[str, events.Plugin] = {}
        self.systems: dict[str, events.System] = {}
        self.memory: dict[str, Series] = {}
        self.disks: dict[str, events.Retention] = {}
        self.panels = PanelBoard()
        self.general_alerts = RunView("")
        self._events = 0
        self._left_out = 0
        self._points, self._max_runs, self._samples = points, runs, samples
        self._all_points = all_points
        self._alive: dict[str, int] = {}

    def apply(self, event: events.AnyEvent) -> None:
        """Take in an event. One that is already in, by its offset, changes nothing; a heartbeat only shows that its run lives."""
        if event.run and event.kind in SIGNS_OF_LIFE:
            self._alive[event.run] = max(self._alive.get(event.run, 0), event.time)
        if event.offset <= self.position:
            return
        self.position = event.offset
        self._events += 1
        if self._events % CENSUS_EVENTS == 0:
            self._fit()
        self.panels.apply(event)
        if isinstance(event, events.Plugin):
            _renew(self.plugins, event.name, event, PLUGINS)
        elif isinstance(event, events.System):
            _renew(self.systems, event.host, event, MACHINES)
            self._remember(event)
        elif isinstance(event, events.Retention) and not event.run:
            _renew(self.disks, event.host, event, MACHINES)
            for run in self.runs.values():
                if event.host in run.board.hosts():
                    run.disks_changed()
        elif event.run:
            self._run(event.run).apply(event)
        else:
            self.general_alerts.apply(event)

    def summaries(self, now: int) -> list[dict[str, Any]]:
        """All runs, the one that was heard of last first. ``now`` is wall clock in nanoseconds."""
        ordered = sorted(self.runs.values(), key=lambda run: (run.updated, run.run), reverse=True)
        return [self._summary(run, now) for run in ordered]

    def detail(self, run: str, now: int) -> dict[str, Any] | None:
        """All that is known of one run but its series and flagged samples; None for a run that is not known."""
        known = self.heading(run, now)
        return known and known | {name: self.runs[run].listed(name, now) for name in LISTS}

    def heading(self, run: str, now: int) -> dict[str, Any] | None:
        """A run without its lists; ``versions`` tells which of them have changed."""
        view = self.runs.get(run)
        if view is None:
            return None
        best = view.best()
        return self._summary(view, now) | {
            "config": view.config,
            "metrics": view.latest(),
            "broken_metrics": view.broken_metrics(),
            "best": {"step": best[0], "loss": best[1]} if best else None,
            "accuracy": msgspec.to_builtins(view.answers.figures()),
            "queue": msgspec.to_builtins(view.queue.forecast(now)),
            "versions": dict(view.versions),
        }

    def shared(self, now: int) -> dict[str, Any]:
        """What belongs to no run: plugins, machines, alerts of the bus itself."""
        return {
            "offset": self.position,
            "time": now,
            "plugins": [shown(plugin) for _, plugin in sorted(self.plugins.items())],
            "systems": [shown(system) for _, system in sorted(self.systems.items())],
            "alerts": [shown(alert) for alert in reversed(self.general_alerts.alerts.values())],
            "panels": self.panels.described(self.plugins),
        }

    def series(self, run: str, metrics: list[str], points: int, first: int | None, last: int | None) -> list[dict[str, Any]] | None:
        """The named metrics of a run, each down-sampled to ``points``; None for an unknown run, empty columns for an unknown metric."""
        view = self.runs.get(run)
        if view is None:
            return None
        answers = []
        for name in metrics:
            series = view.series.get(name)
            part = series.window(points, first, last) if series else None
            answers.append(
                {
                    "metric": name,
                    "steps": part.steps if part else [],
                    "values": part.values if part else [],
                    "gaps": [{"first": gap.first, "last": gap.last, "count": gap.count, "kind": gap.kind} for gap in part.gaps]
                    if part
                    else [],
                    "total": part.total if part else 0,
                    "seen": series.seen if series else 0,
                }
            )
        return answers

    def checkpoints(self, run: str) -> CheckpointsStats | None:
        """The checkpoints of a run with what is to become of each, and the disks that hold them; None for an unknown run."""
        view = self.runs.get(run)
        if view is None:
            return None
        rows = view.fates()
        return CheckpointsStats(
            run=run, version=view.versions.get("fates", 0), checkpoints=rows, disks=disk_rows(self.disks.values(), rows)
        )

    def stats(self) -> StoreStats:
        """How much is held."""
        return StoreStats(
            position=self.position,
            events=self._events,
            runs=len(self.runs),
            points=sum(len(series.steps) for series in self._all_series()),
            runs_left_out=self._left_out,
        )

    def _all_series(self) -> Iterator[Series]:
        return chain.from_iterable(run.series.values() for run in self.runs.values())

    def _fit(self) -> None:
        """Halve the longest series until all together are below their limit."""
        count = sum(len(series.steps) for series in self._all_series())
        while count > self._all_points:
            longest = max(len(series.steps) for series in self._all_series())
            if longest < SHORTEST_THINNED:
                return
            for series in self._all_series():
                if (length := len(series.steps)) > longest // 2:
                    series.thin(length // 2)
                    count -= length - len(series.steps)

    def _remember(self, event: events.System) -> None:
        """The used share of a machine's memory, by the second."""
        if event.memory is None or not event.memory.total:
            return
        series = self.memory.get(event.host)
        if series is None:
            if len(self.memory) >= MACHINES:
                del self.memory[next(iter(self.memory))]
            series = self.memory[event.host] = Series(MEMORY_POINTS)
        series.add(event.time // 1_000_000_000, 100 * used_share(event.memory))

    def _run(self, run: str) -> RunView:
        view = self.runs.get(run)
        if view is None:
            view = self.runs[run] = RunView(run, points=self._points, samples=self._samples)
            if len(self.runs) > self._max_runs:
                oldest = min((other for other in self.runs.values() if other is not view), key=lambda other: other.updated)
                del self.runs[oldest.run]
                self._left_out += 1
        return view

    def _summary(self, run: RunView, now: int) -> dict[str, Any]:
        alive = self._alive.get(run.run, run.updated)
        silent = max(0.0, (now - alive) / 1e9) if alive else None
        between = run.eta_interval()
        health = judge(run.state, run.reason, run.alerts.values(), self.systems.values(), silent)
        return {
            "run": run.run,
            "name": run.name,
            "state": run.state or "unknown",
            "reason": run.reason,
            "health": {"level": health.level, "reason": health.reason},
            "host": run.host,
            "started": run.started,
            "updated": run.updated,
            "step": run.step,
            "total_steps": run.total_steps,
            "epoch": run.epoch,
            "examples": run.examples,
            "tokens": run.tokens,
            "phase": shown(run.phase) if run.phase else None,
            "steps_per_second": run.pace(),
            "eta": run.eta(),
            "eta_low": between[0] if between else None,
            "eta_high": between[1] if between else None,
            "events": run.events,
            "missing": run.gaps,
            "series": sorted(run.series),
            "spark": run.spark(),
        }


def used_share(memory: events.Memory) -> float:
    """The share that can't be had: what is not available, where the kernel says that; caches can be had."""
    used = memory.used if memory.available is None else memory.total - memory.available
    return used / memory.total if memory.total else 0.0


def _renew(kept: dict[str, Any], key: str, event: Any, limit: int) -> None:
    """Put an entry last; forget the first above the limit."""
    kept.pop(key, None)
    kept[key] = event
    if len(kept) > limit:
        del kept[next(iter(kept))]
