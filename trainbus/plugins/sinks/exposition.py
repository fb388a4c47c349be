"""What Prometheus is shown: the last value of every series of the runs that are of interest, and counts. Plain values, without I/O.

It is kept in the plugin's durable state, which moves together with the cursor: a crash makes counters neither lose an event nor count one
twice.
"""

from __future__ import annotations

from msgspec import Struct, field

from trainbus.bus import events
from trainbus.plugins.sinks.points import NO_RUN, points

MAX_RUNS = 100
"""Runs that are shown; of more the oldest that have ended, then the oldest, are dropped."""
MAX_SERIES = 500
"""Series of one run; a training that makes up names must fill neither memory nor Prometheus."""


class RunView(Struct):
    """What is shown of one run. ``ended`` is a time in seconds; ``alerts`` are those that stand, by id: rule and severity."""

    step: int = 0
    state: str = "running"
    ended: float | None = None
    values: dict[str, float] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    alerts: dict[str, tuple[str, str]] = field(default_factory=dict)
    dropped: int = 0


class Exposition(Struct):
    """All runs, by id."""

    runs: dict[str, RunView] = field(default_factory=dict)

    def take(self, event: events.AnyEvent) -> bool:
        """An event of a run that is shown; True when the runs are no longer the same."""
        run = self.runs.get(event.run or NO_RUN)
        new = run is None
        if run is None:
            run = self.runs[event.run or NO_RUN] = RunView()
            self._make_room()
        run.events[event.kind] = run.events.get(event.kind, 0) + 1
        if isinstance(event, events.RunStarted):
            run.state, run.ended = "running", None
        elif isinstance(event, events.RunEnded):
            run.state, run.ended = event.outcome, event.time / 1e9
        elif isinstance(event, events.Alert):
            if event.state == "cleared":
                run.alerts.pop(event.id, None)
            elif len(run.alerts) < MAX_SERIES or event.id in run.alerts:
                run.alerts[event.id] = (event.rule, event.severity)
        else:
            if isinstance(event, events.Step):
                run.step = event.step
                if run.state == "lost":
                    run.state, run.ended = "running", None
            for point in points(event):
                if point.name in run.values or len(run.values) < MAX_SERIES:
                    run.values[point.name] = point.value
                else:
                    run.dropped += 1
        return new

    def forget(self, now: float, keep: float) -> bool:
        """Drop runs that ended more than ``keep`` seconds ago; True when there were any. Times are seconds since the epoch."""
        old = [name for name, run in self.runs.items() if run.ended is not None and now - run.ended > keep]
        for name in old:
            del self.runs[name]
        return bool(old)

    def _make_room(self) -> None:
        while len(self.runs) > MAX_RUNS:
            oldest = next((name for name, run in self.runs.items() if run.ended is not None), next(iter(self.runs)))
            del self.runs[oldest]
