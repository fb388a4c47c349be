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
from trainbus.plugins.anomaly.causes import ACCUMULATION, StepSize, has_restarts, is_new_data
from trainbus.plugins.anomaly.evidence import told
from trainbus.plugins.anomaly.memory import HISTORY, RunMemory, decode
from trainbus.plugins.anomaly.observations import SILENCE, Observation, observations
from trainbus.plugins.anomaly.rules import AnyRule, Finding
from trainbus.plugins.anomaly.track import Track

MAX_RUNS = 32
"""Runs that are remembered; the one that was silent longest is forgotten first."""
KINDS = ("run_started", "run_ended", "phase", "step", "eval", "sample", "checkpoint", "job", "system", "metric")
"""Kinds of events that it looks at; the plugin has a hook for each."""
BACK = 3
"""So many logged values behind the last one, a step is of a resume."""
NOT_BUSY = frozenset({"train", "training"})
"""Phases in which steps are due."""


class Series(Struct):
    """One series of one run: all that a value meets, looked up once and not at every value.

    Args:
        history: Its last values, as the run's memory holds them.
        lowest: Whether the lowest value is remembered.
        track: None when nobody wants to know anything of it.
        rules: Judgement, what the rule remembers of this series, key of its episodes, and the rule.
        windowed: Somebody wants to know its last values.
        noisy: Somebody wants to know their noise.
    """

    history: list[tuple[int, float]]
    lowest: bool
    track: Track | None
    rules: list[tuple[Callable[..., Finding | None], Any, str, AnyRule]]
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
        self._series: dict[str, dict[str, Series]] = {}
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
            self._step(memory, event, alerts)
        else:
            self._other(memory, event, alerts)
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
        self._series.pop(run, None)
        self.runs[run] = memory

    def forget_oldest(self) -> list[str]:
        """Drop runs beyond `MAX_RUNS`; returns them."""
        surplus = len(self.runs) - MAX_RUNS
        if surplus <= 0:
            return []
        oldest = sorted(self.runs, key=lambda run: (self.runs[run].last_time, run))[:surplus]
        for run in oldest:
            del self.runs[run]
            self._series.pop(run, None)
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

    def _step(self, memory: RunMemory, event: events.Step, alerts: list[events.Alert]) -> None:
        """Steps are most of all events: an `Observation` is made only where a rule looks at it."""
        run, step, time, metrics = event.run, event.step, event.time, event.metrics
        if step <= memory.last_step and not event.rank and _goes_back(memory, step):
            self._restart(memory, run)  # a resume that nothing has told of
        if event.epoch is not None:
            memory.epoch = event.epoch
        if event.rank:
            memory.ranked = True
        rate = metrics.get("learning_rate")
        if rate is not None:
            memory.learning_rate = rate
        if event.examples is not None and not event.rank:
            size = memory.size.take(step, event.examples)
            memory.odd = size == "odd"
            if size == "changed":
                self._start_baselines_anew(memory, run)
        for name in ACCUMULATION:
            if name in metrics and memory.size.accumulates(metrics[name]):
                self._start_baselines_anew(memory, run)
        if self._watches_silence:
            if time > memory.clock > 0 and not memory.busy:
                self._silence(memory, event, alerts, judge=True, take=True)
            if time:
                memory.clock, memory.busy = time, False
        known = self._series.get(run)
        if known is None:
            known = self._series[run] = {}
        prefix = f"rank{event.rank}/" if event.rank else ""
        for name, value in metrics.items():
            metric = prefix + name
            series = known.get(metric) or self._bind(memory, run, metric)
            if series is None:
                continue
            history = series.history
            history.append((step, value))
            if len(history) > HISTORY:
                del history[0]
            if series.lowest:
                memory.note_lowest(metric, step, value)
            if series.track is not None:
                self._judge(memory, run, series, series.track, Observation(metric, step, time, value), alerts)
        self._values += len(metrics)
        memory.last_step = step

    def _other(self, memory: RunMemory, event: events.AnyEvent, alerts: list[events.Alert]) -> None:
        """Everything but steps."""
        run = event.run
        if isinstance(event, events.RunStarted):
            self._restart(memory, run)
            memory.ended = False
            memory.restarts = has_restarts(event.config)
        elif isinstance(event, events.RunEnded):
            alerts += self._end(memory, event)
        elif is_new_data(event):
            self._start_baselines_anew(memory, run)
        elif isinstance(event, events.Checkpoint):
            memory.note_checkpoint(event)
        elif isinstance(event, events.Sample):
            memory.note_sample(told(event))
        if self._watches_silence:
            self._listen(memory, event, alerts)
        for one in observations(event, memory.last_step):
            self._values += 1
            series = self._series.setdefault(run, {}).get(one.metric) or self._bind(memory, run, one.metric)
            if series is None:
                continue
            series.history.append((one.step, one.value))
            if len(series.history) > HISTORY:
                del series.history[0]
            if series.lowest:
                memory.note_lowest(one.metric, one.step, one.value)
            if series.track is not None:
                self._judge(memory, run, series, series.track, one, alerts)

    def _listen(self, memory: RunMemory, event: events.AnyEvent, alerts: list[events.Alert]) -> None:
        """How long it has been silent, by the stamps of the events. What an evaluation or a checkpoint took is remembered and no stall."""
        if isinstance(event, events.RunStarted | events.RunEnded):
            return
        if isinstance(event, events.Phase):
            memory.busy = event.state != "ended" and event.name not in NOT_BUSY
            memory.clock = event.time
            return
        if not event.time or memory.busy:
            return
        worked = isinstance(event, events.Eval | events.Checkpoint)
        if event.time > memory.clock > 0:
            self._silence(memory, event, alerts, judge=not worked, take=worked)
        if worked:
            memory.clock = event.time

    def _silence(self, memory: RunMemory, event: events.AnyEvent, alerts: list[events.Alert], *, judge: bool, take: bool) -> None:
        known = self._series.setdefault(event.run, {})
        series = known.get(SILENCE)
        if series is None:
            series = known[SILENCE] = self._series_of(memory, event.run, SILENCE, [])
        if series.track is not None:
            seconds = (event.time - memory.clock) / 1e9
            if judge:
                silence = Observation(SILENCE, memory.last_step, event.time, seconds)
                self._judge(memory, event.run, series, series.track, silence, alerts, take=take)
            elif series.windowed:
                series.track.take(seconds, memory.last_step, changes=series.noisy)

    @staticmethod
    def _judge(
        memory: RunMemory,
        run: str,
        series: Series,
        track: Track,
        observation: Observation,
        alerts: list[events.Alert],
        *,
        take: bool = True,
    ) -> None:
        episodes = memory.episodes
        for judge, remembered, key, rule in series.rules:
            finding = judge(remembered, observation, track, memory)
            if finding is not None or (episodes and key in episodes):
                alerts += incidents.take(memory, rule, key, run, observation, finding)
        if take and series.windowed:
            track.take(observation.value, observation.step, changes=series.noisy)

    def _bind(self, memory: RunMemory, run: str, metric: str) -> Series | None:
        """What a value of a series meets; None for one series too many."""
        history = memory.history_of(metric)
        if history is None:
            self._ignored += 1
            return None
        series = self._series[run][metric] = self._series_of(memory, run, metric, history)
        return series

    def _series_of(self, memory: RunMemory, run: str, metric: str, history: list[tuple[int, float]]) -> Series:
        rules = [rule for rule in self.rules if _matches(metric, rule.config.metrics)]
        read = metric in self._read
        track, remembered = None, {}
        if rules or read:
            track = memory.tracks.setdefault(metric, Track())
            remembered = memory.memories.setdefault(metric, {})
        for rule in rules:
            if rule.name not in remembered:
                remembered[rule.name] = rule.memory()
        return Series(
            history=history,
            lowest=metric.endswith("loss"),
            track=track,
            rules=[(rule.judge, remembered[rule.name], f"{rule.name}:{metric}", rule) for rule in rules],
            windowed=read or any(rule.uses_track for rule in rules),
            noisy=any(rule.uses_noise for rule in rules),
        )

    def _restart(self, memory: RunMemory, run: str) -> None:
        """A new process works on the run, perhaps from an earlier step: what was normal before says nothing about now."""
        memory.tracks.clear()
        self._series.pop(run, None)
        memory.clock, memory.busy = 0, False
        memory.size, memory.odd = StepSize(), False
        for series in memory.memories.values():
            for name in [name for name in series if not self._by_name[name].survives]:
                del series[name]

    def _start_baselines_anew(self, memory: RunMemory, run: str) -> None:
        """Other data, or steps of another size: levels and noise of before say nothing about now. Schedule, speed and bests go on."""
        dependent = {rule.name for rule in self.rules if rule.of_data}
        for metric, known in memory.memories.items():
            names = dependent & known.keys()
            if names:
                memory.tracks.pop(metric, None)
                for name in names:
                    del known[name]
        self._series.pop(run, None)

    def _end(self, memory: RunMemory, event: events.RunEnded) -> list[events.Alert]:
        """Close what is open and keep only the bests. A lost run may come back as if nothing had been."""
        if event.outcome == "lost":
            return []
        alerts = incidents.end_all(memory, event.run, event.time, f"The run ended ({event.outcome}) while this was still so.")
        self._restart(memory, event.run)
        memory.ended = True
        return alerts


def _goes_back(memory: RunMemory, step: int) -> bool:
    """Whether a step is so far behind the last one that training has been resumed, and not just been told out of order."""
    past = memory.history.get("loss") or next((one for one in memory.history.values() if len(one) > 1), [])
    if len(past) < 2:
        return False
    stride = (past[-1][0] - past[0][0]) / (len(past) - 1)
    return past[-1][0] - step >= BACK * max(stride, 1)


def _matches(metric: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(metric, pattern) for pattern in patterns)
