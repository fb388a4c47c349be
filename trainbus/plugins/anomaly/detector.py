"""The detector: events in, alerts out, without clock, disk or network.

The same events give the same alerts, live, on replay and after a restart in between: everything it remembers of a run is in that
run's `RunMemory`, which the caller keeps together with its cursor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

import msgspec
from msgspec import Struct

from trainbus.bus import events
from trainbus.plugins.anomaly import incidents
from trainbus.plugins.anomaly.evidence import told
from trainbus.plugins.anomaly.memory import RunMemory, decode
from trainbus.plugins.anomaly.observations import SILENCE, Observation, observations
from trainbus.plugins.anomaly.rules import AnyRule, Finding
from trainbus.plugins.anomaly.track import Track

MAX_RUNS = 32
"""Runs that are remembered; the one that was silent longest is forgotten first."""
MAX_NAMES = 4_096
"""Metric names whose rules are looked up once; beyond that the table starts anew."""


KINDS = ("run_started", "run_ended", "phase", "step", "eval", "sample", "checkpoint", "system", "metric")
"""Kinds of events that it looks at; the plugin has a hook for each."""
NOT_BUSY = frozenset({"train", "training"})
"""Phases in which steps are due."""


class Watch(Struct, frozen=True, kw_only=True):
    """What is done with a metric.

    Args:
        rules: Name, judgement, key of the episodes, and the rule itself: taken apart here, not at every value.
        tracked: Somebody wants to know something of it.
        windowed: Somebody wants to know its last values.
        noisy: Somebody wants to know their noise.
    """

    rules: list[tuple[str, Callable[..., Finding | None], str, AnyRule]]
    tracked: bool
    windowed: bool
    noisy: bool


class DetectorStats(Struct, frozen=True, kw_only=True):
    """Counts since this process began."""

    events: int
    values: int
    raised: int
    cleared: int
    ignored_values: int
    runs: int
    open: int


class Detector:
    """All rules over all runs.

    Args:
        rules: Those that are switched on.
    """

    def __init__(self, rules: Iterable[AnyRule]) -> None:
        self.rules = list(rules)
        self.runs: dict[str, RunMemory] = {}
        self._by_name = {rule.name: rule for rule in self.rules}
        self._read = {name for rule in self.rules for name in rule.reads()}
        self._watches_silence = any(_matches(SILENCE, rule.config.metrics) for rule in self.rules)
        self._watches: dict[str, Watch] = {}
        self._events = self._values = self._raised = self._cleared = self._ignored = 0

    def feed(self, event: events.AnyEvent) -> list[events.Alert]:
        """Take an event in; returns the alerts to publish, in order."""
        self._events += 1
        memory = self.runs.get(event.run)
        if memory is None:
            memory = self.runs[event.run] = RunMemory()
        if event.time > memory.last_time:
            memory.last_time = event.time
        alerts: list[events.Alert] = []
        if isinstance(event, events.Step):
            self._progress(memory, event)
        elif isinstance(event, events.RunStarted):
            self._restart(memory)
            memory.ended = False
        elif isinstance(event, events.RunEnded):
            alerts = self._end(memory, event)
        elif isinstance(event, events.Checkpoint):
            memory.note_checkpoint(event)
        elif isinstance(event, events.Sample):
            memory.note_sample(told(event))
        if self._watches_silence:
            self._listen(memory, event, alerts)
        if isinstance(event, events.Step):
            self._step(memory, event, alerts)
            memory.last_step = event.step
        else:
            for one in observations(event, memory.last_step):
                self._value(memory, event.run, one.metric, one.step, one.time, one.value, one.sample, alerts)
        if alerts:
            self._raised += sum(alert.state == "raised" for alert in alerts)
            self._cleared += sum(alert.state == "cleared" for alert in alerts)
        return alerts

    def load(self, run: str, content: Any) -> None:
        """Take a run's memory back, as `RunMemory` or as msgpack holds one.

        Raises:
            msgspec.DecodeError: It was written by another version.
        """
        memory = decode(content)
        for series in memory.memories.values():
            for name, known in list(series.items()):
                rule = self._by_name.get(name)
                if rule is None:
                    del series[name]  # switched off since
                elif not isinstance(known, rule.memory):
                    series[name] = msgspec.convert(known, rule.memory)
        for key, episode in list(memory.episodes.items()):
            incident = memory.incidents.get(episode.incident)
            if episode.rule not in self._by_name or incident is None:
                del memory.episodes[key]
                memory.incidents.pop(episode.incident, None)
            elif (incident.lead.rule, incident.lead.metric, incident.lead.start) == (episode.rule, episode.metric, episode.start):
                incident.lead = episode  # one thing again: storage has made two of it
        self.runs[run] = memory

    def forget_oldest(self) -> list[str]:
        """Drop runs beyond `MAX_RUNS`; returns them."""
        surplus = len(self.runs) - MAX_RUNS
        if surplus <= 0:
            return []
        oldest = sorted(self.runs, key=lambda run: (self.runs[run].last_time, run))[:surplus]
        for run in oldest:
            del self.runs[run]
        return oldest

    def annotate(self, run: str, alert_id: str, **evidence: object) -> events.AlertState:
        """Add to the evidence of an incident, so that its later alerts carry it; returns the state that it is in now."""
        memory = self.runs.get(run) or RunMemory()
        for incident in (*memory.incidents.values(), *memory.news.values()):
            if incident.id == alert_id:
                incident.extra |= evidence
                return "updated"
        return "cleared"

    def stats(self) -> DetectorStats:
        """Counts."""
        return DetectorStats(
            events=self._events,
            values=self._values,
            raised=self._raised,
            cleared=self._cleared,
            ignored_values=self._ignored,
            runs=len(self.runs),
            open=sum(len(memory.incidents) for memory in self.runs.values()),
        )

    @staticmethod
    def _progress(memory: RunMemory, event: events.Step) -> None:
        if event.epoch is not None:
            memory.epoch = event.epoch
        if event.rank:
            memory.ranked = True
        rate = event.metrics.get("learning_rate")
        if rate is not None:
            memory.learning_rate = rate

    def _listen(self, memory: RunMemory, event: events.AnyEvent, alerts: list[events.Alert]) -> None:
        """How long it has been silent, by the stamps of the events. The silence that a step ends is remembered, others are only judged."""
        if isinstance(event, events.RunStarted | events.RunEnded):
            return
        if isinstance(event, events.Phase):
            memory.busy = event.state != "ended" and event.name not in NOT_BUSY
            memory.clock = event.time
            return
        if not event.time or (memory.busy and not isinstance(event, events.Step)):
            return
        ends = isinstance(event, events.Step)
        if memory.clock and not memory.busy and event.time > memory.clock:
            silence = Observation(SILENCE, memory.last_step, event.time, (event.time - memory.clock) / 1e9)
            self._observe(memory, event.run, self._watches.get(SILENCE) or self._watch(SILENCE), silence, alerts, take=ends)
        if ends or isinstance(event, events.Eval | events.Checkpoint):
            memory.clock, memory.busy = event.time, False

    def _step(self, memory: RunMemory, event: events.Step, alerts: list[events.Alert]) -> None:
        """As `observations`, but an `Observation` is made only where a rule looks at it: steps are most of all events."""
        prefix = f"rank{event.rank}/" if event.rank else ""
        for name, value in event.metrics.items():
            self._value(memory, event.run, prefix + name, event.step, event.time, value, None, alerts)

    def _value(
        self,
        memory: RunMemory,
        run: str,
        metric: str,
        step: int,
        time: int,
        value: float,
        sample: events.Sample | None,
        alerts: list[events.Alert],
    ) -> None:
        self._values += 1
        if not memory.note(metric, step, value):
            self._ignored += 1
            return
        watch = self._watches.get(metric) or self._watch(metric)
        if watch.tracked:
            self._observe(memory, run, watch, Observation(metric, step, time, value, sample), alerts)

    def _observe(
        self, memory: RunMemory, run: str, watch: Watch, observation: Observation, alerts: list[events.Alert], *, take: bool = True
    ) -> None:
        metric = observation.metric
        track = memory.tracks.get(metric)
        if track is None:
            track = memory.tracks[metric] = Track()
        known = memory.memories.get(metric)
        if known is None:
            known = memory.memories[metric] = {}
        episodes = memory.episodes
        for name, judge, key, rule in watch.rules:
            remembered = known.get(name)
            if remembered is None:
                remembered = known[name] = rule.memory()
            finding = judge(remembered, observation, track, memory)
            if finding is not None or (episodes and key in episodes):
                alerts += incidents.take(memory, rule, key, run, observation, finding)
        if take and watch.windowed:
            track.take(observation.value, observation.step, changes=watch.noisy)

    def _watch(self, metric: str) -> Watch:
        """What is done with a metric; looked up once."""
        if len(self._watches) >= MAX_NAMES:
            self._watches.clear()
        rules = [rule for rule in self.rules if _matches(metric, rule.config.metrics)]
        read = metric in self._read
        watch = self._watches[metric] = Watch(
            rules=[(rule.name, rule.judge, f"{rule.name}:{metric}", rule) for rule in rules],
            tracked=bool(rules) or read,
            windowed=read or any(rule.uses_track for rule in rules),
            noisy=any(rule.uses_noise for rule in rules),
        )
        return watch

    def _restart(self, memory: RunMemory) -> None:
        """A new process works on the run, perhaps from an earlier step: what was normal before says nothing about now."""
        memory.tracks.clear()
        memory.clock, memory.busy = 0, False
        for series in memory.memories.values():
            for name in [name for name in series if not self._by_name[name].survives]:
                del series[name]

    def _end(self, memory: RunMemory, event: events.RunEnded) -> list[events.Alert]:
        """Close what is open and keep only the bests. A lost run may come back as if nothing had been."""
        if event.outcome == "lost":
            return []
        alerts = incidents.end_all(memory, event.run, event.time, f"The run ended ({event.outcome}) while this was still so.")
        self._restart(memory)
        memory.ended = True
        return alerts


def _matches(metric: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(metric, pattern) for pattern in patterns)
