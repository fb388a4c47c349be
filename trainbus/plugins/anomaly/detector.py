"""The detector: events in, alerts out, without clock, disk or network.

The same events give the same alerts, live, on replay and after a restart in between: everything it remembers of a run is in that
run's `RunMemory`, which the caller keeps together with its cursor.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from msgspec import Struct

from trainbus.bus import events
from trainbus.plugins.anomaly.config import RulesConfig
from trainbus.plugins.anomaly.incidents import Incident, alert_of, follow, open_incident
from trainbus.plugins.anomaly.memory import RunMemory, decode, encode
from trainbus.plugins.anomaly.observations import Observation, observations
from trainbus.plugins.anomaly.rules import Baseline, Best, Rule, enabled_rules

MAX_RUNS = 32
"""Runs that are remembered; the one that was silent longest is forgotten first."""
MAX_NAMES = 4_096
"""Metric names whose rules are looked up once; beyond that the table starts anew."""


class DetectorStats(Struct, frozen=True, kw_only=True):
    """Counts since this process began."""

    events: int
    values: int
    findings: int
    raised: int
    cleared: int
    ignored_values: int
    runs: int
    open: int


class Detector:
    """All rules over all runs.

    Args:
        config: The rules and their parameters.
    """

    def __init__(self, config: RulesConfig) -> None:
        self.rules: list[Rule] = enabled_rules(config)
        self.runs: dict[str, RunMemory] = {}
        self._watchers: dict[str, tuple[tuple[Rule, str], ...]] = {}
        self._events = self._values = self._findings = self._raised = self._cleared = self._ignored = 0

    def feed(self, event: events.AnyEvent) -> list[events.Alert]:
        """Take an event in; returns the alerts to publish, in order."""
        self._events += 1
        memory = self.runs.get(event.run)
        if memory is None:
            memory = self.runs[event.run] = RunMemory()
        memory.last_time = max(memory.last_time, event.time)
        alerts: list[events.Alert] = []
        if isinstance(event, events.RunStarted):
            self._restart(memory)
        elif isinstance(event, events.RunEnded):
            alerts = self._end(memory, event)
        elif isinstance(event, events.Checkpoint):
            memory.note_checkpoint(event)
        else:
            for observation in observations(event, memory.last_step):
                self._values += 1
                if memory.note(observation):
                    self._observe(memory, event.run, observation, alerts)
                else:
                    self._ignored += 1
            if isinstance(event, events.Step):
                memory.last_step = event.step
        self._raised += sum(alert.state == "raised" for alert in alerts)
        self._cleared += sum(alert.state == "cleared" for alert in alerts)
        return alerts

    def dump(self, run: str) -> bytes:
        """The memory of a run, for durable state."""
        return encode(self.runs[run])

    def load(self, run: str, content: bytes) -> None:
        """Take a run's memory back.

        Raises:
            msgspec.DecodeError: It was written by another version.
        """
        self.runs[run] = decode(content)

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
        for incident in (*memory.open.values(), *memory.news.values()):
            if incident.id == alert_id:
                incident.evidence |= evidence
                return "updated"
        return "cleared"

    def stats(self) -> DetectorStats:
        """Counts."""
        return DetectorStats(
            events=self._events,
            values=self._values,
            findings=self._findings,
            raised=self._raised,
            cleared=self._cleared,
            ignored_values=self._ignored,
            runs=len(self.runs),
            open=sum(len(memory.open) for memory in self.runs.values()),
        )

    def _observe(self, memory: RunMemory, run: str, observation: Observation, alerts: list[events.Alert]) -> None:
        for rule, key in self._watching(observation.metric):
            series = memory.series.get(rule.name)
            if series is None:
                series = memory.series[rule.name] = {}
            known = series.get(observation.metric)
            if known is None and (known := rule.remember()) is not None:
                series[observation.metric] = known
            finding = rule.judge(known, observation)
            incident = memory.open.get(key) if memory.open else None
            if finding is None and incident is None:
                continue
            self._findings += finding is not None
            if incident is not None:
                alert = follow(incident, rule, run, observation, finding)
                if alert is not None:
                    alerts.append(alert)
                    if alert.state == "cleared":
                        del memory.open[key]
            elif finding is not None:
                incident = open_incident(rule, run, observation, finding, memory.history[observation.metric])
                if rule.lasting:
                    memory.open[key] = incident
                else:
                    alerts += _replace_news(memory, key, run, observation)
                    memory.news[key] = incident
                alerts.append(alert_of(incident, run, observation.time, "raised"))

    def _watching(self, metric: str) -> tuple[tuple[Rule, str], ...]:
        """The rules of a metric, each with the key of its incident."""
        rules = self._watchers.get(metric)
        if rules is None:
            if len(self._watchers) >= MAX_NAMES:
                self._watchers.clear()
            watching = [(rule, f"{rule.name}:{metric}") for rule in self.rules if _matches(metric, rule.config.metrics)]
            rules = self._watchers[metric] = tuple(watching)
        return rules

    @staticmethod
    def _restart(memory: RunMemory) -> None:
        """A new process works on the run, perhaps from an earlier step: what was normal before says nothing about now."""
        for series in memory.series.values():
            for metric in [metric for metric, known in series.items() if isinstance(known, Baseline)]:
                del series[metric]

    @staticmethod
    def _end(memory: RunMemory, event: events.RunEnded) -> list[events.Alert]:
        """Close what is open and keep only the bests. A lost run may come back as if nothing had been."""
        if event.outcome == "lost":
            return []
        message = f"The run ended ({event.outcome}) while this was still so."
        alerts = [alert_of(incident, event.run, event.time, "cleared", message) for incident in memory.open.values()]
        memory.open.clear()
        for rule, series in memory.series.items():
            memory.series[rule] = {metric: known for metric, known in series.items() if isinstance(known, Best)}
        return alerts


def _matches(metric: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(metric, pattern) for pattern in patterns)


def _replace_news(memory: RunMemory, key: str, run: str, observation: Observation) -> list[events.Alert]:
    before: Incident | None = memory.news.get(key)
    if before is None:
        return []
    return [alert_of(before, run, observation.time, "cleared", f"Superseded at step {observation.step}.", last_step=observation.step)]
