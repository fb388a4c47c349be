"""The life of an alert: one incident is raised once, updated when it gets worse or another rule joins, cleared when it is over.

An episode is the time in which one rule is broken on one series. An incident holds the episodes of one group that overlap in time,
and is one alert: a NaN loss, an infinite gradient norm and the divergence that they cause are told as one thing, three findings strong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from trainbus.bus.events import Alert, AlertState, Severity
from trainbus.plugins.anomaly.rules.base import STILL

if TYPE_CHECKING:
    from trainbus.plugins.anomaly.memory import RunMemory
    from trainbus.plugins.anomaly.observations import Observation
    from trainbus.plugins.anomaly.rules.base import AnyRule, Finding

PLUGIN = "anomaly"
WORSE_BY = 1.5
"""An incident is updated when a score has grown by this factor: a long one gives a handful of updates, not one a step."""
MAX_FINDINGS = 12
"""Findings that one incident tells; what joins later is only counted."""
HEAVY = frozenset({"parameters", "history"})
"""Not kept of a finding that is over: an incident of many findings is a part of every state that is stored."""
ROLL_BACK_FROM = 3
"""So many rules broken in one incident: the advice is to roll back."""
ROLL_BACK = "Several rules agree that training is broken: stop, and go back to the last checkpoint before step {step}."
RANK: dict[Severity, int] = {"info": 0, "warning": 1, "critical": 2}


class Episode(Struct, array_like=True):
    """One rule, broken on one series.

    Args:
        incident: Id of the alert that tells it.
        step: At which it was said: of a note that has become a warning, when it became one.
        start: Where it began.
        last: The last step that broke the rule.
        count: Values that broke the rule.
        quiet: Values in a row that did not.
    """

    incident: str
    rule: str
    kind: str
    metric: str
    severity: Severity
    step: int
    start: int
    last: int
    score: float
    message: str
    advice: str
    evidence: dict[str, Any] = field(default_factory=dict)
    count: int = 1
    quiet: int = 0

    def tell(self) -> dict[str, Any]:
        """As evidence of the alert."""
        return {
            "rule": self.rule,
            "kind": self.kind,
            "metric": self.metric,
            "severity": self.severity,
            "step": self.step,
            "start_step": self.start,
            "end_step": self.last,
            "score": self.score,
            "count": self.count,
            "message": self.message,
            **self.evidence,
        }


class Incident(Struct, array_like=True):
    """One alert. ``findings`` are those that are over; ``extra`` is what others add: the place of a snapshot."""

    id: str
    group: str
    step: int
    lead: Episode
    open: int = 1
    findings: list[dict[str, Any]] = field(default_factory=list)
    dropped: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


def take(memory: RunMemory, rule: AnyRule, key: str, run: str, observation: Observation, finding: Finding | None) -> list[Alert]:
    """Take what a rule says of a value into account; returns the alerts to publish."""
    episode = memory.episodes.get(key)
    if finding is None:
        return _quiet(memory, rule, key, run, observation, episode) if episode is not None else []
    if episode is not None:
        if finding is STILL:
            episode.quiet, episode.count, episode.last = 0, episode.count + 1, observation.step
            return []
        return _again(memory, run, observation, episode, finding, rule)
    return _begin(memory, rule, key, run, observation, finding)


def _begin(memory: RunMemory, rule: AnyRule, key: str, run: str, observation: Observation, finding: Finding) -> list[Alert]:
    if memory.quiet_until and memory.quiet_until.get(key, -1) > observation.step:
        return []
    episode = _episode(rule, run, observation, finding, memory)
    if rule.config.cooldown:
        memory.quiet_until[key] = observation.step + rule.config.cooldown
    if not rule.lasting:
        before = memory.news.pop(key, None)
        memory.news[key] = incident = Incident(episode.incident, rule.group, episode.step, episode)
        superseded = f"Superseded at step {observation.step}."
        cleared = [alert_of(memory, before, run, observation.time, "cleared", superseded)] if before is not None else []
        return [*cleared, alert_of(memory, incident, run, observation.time, "raised")]
    memory.episodes[key] = episode
    for incident in memory.incidents.values():
        if incident.group == rule.group:
            episode.incident = incident.id
            incident.open += 1
            if RANK[episode.severity] >= RANK[incident.lead.severity] and incident.lead.rule != episode.rule:
                incident.lead = episode
            return [alert_of(memory, incident, run, observation.time, "updated", finding.message)]
    incident = memory.incidents[episode.incident] = Incident(episode.incident, rule.group, episode.step, episode)
    return [alert_of(memory, incident, run, observation.time, "raised")]


def _again(memory: RunMemory, run: str, observation: Observation, episode: Episode, finding: Finding, rule: AnyRule) -> list[Alert]:
    episode.quiet = 0
    episode.count += 1
    episode.last = observation.step
    severity: Severity = finding.severity or rule.config.severity
    worse = RANK[severity] > RANK[episode.severity]
    if not worse and finding.score <= episode.score * WORSE_BY:
        return []
    episode.score = finding.score
    episode.evidence |= finding.evidence
    episode.message = finding.message
    if worse:
        if episode.severity == "info":
            episode.step = observation.step  # a note has become an alert: that is when it was said
        episode.severity = severity
    incident = memory.incidents[episode.incident]
    if RANK[episode.severity] > RANK[incident.lead.severity] or incident.lead.rule == episode.rule:
        incident.lead = episode
    return [alert_of(memory, incident, run, observation.time, "updated", finding.message)]


def _quiet(memory: RunMemory, rule: AnyRule, key: str, run: str, observation: Observation, episode: Episode) -> list[Alert]:
    episode.quiet += 1
    if episode.quiet < rule.config.clear_after:
        return []
    del memory.episodes[key]
    incident = memory.incidents[episode.incident]
    incident.open -= 1
    if len(incident.findings) < MAX_FINDINGS:
        incident.findings.append({name: value for name, value in episode.tell().items() if name not in HEAVY})
    else:
        incident.dropped += 1
    if incident.open:
        return []
    del memory.incidents[incident.id]
    message = (
        f"Over at step {observation.step}: {episode.metric} has been quiet for {episode.quiet} values, after {episode.count} that were not."
    )
    return [alert_of(memory, incident, run, observation.time, "cleared", message)]


def end_all(memory: RunMemory, run: str, time: int, message: str) -> list[Alert]:
    """Close what is open."""
    alerts = [alert_of(memory, incident, run, time, "cleared", message) for incident in memory.incidents.values()]
    memory.incidents.clear()
    memory.episodes.clear()
    return alerts


def _episode(rule: AnyRule, run: str, observation: Observation, finding: Finding, memory: RunMemory) -> Episode:
    start = observation.step if finding.start is None else finding.start
    return Episode(
        incident=f"{rule.name}:{observation.metric}:{run}:{observation.step}",
        rule=rule.name,
        kind=rule.kind,
        metric=observation.metric,
        severity=finding.severity or rule.config.severity,
        step=observation.step,
        start=start,
        last=observation.step,
        score=finding.score,
        message=finding.message,
        advice=rule.advice,
        evidence={
            **finding.evidence,
            "history": [list(point) for point in memory.history.get(observation.metric, ())],
            "parameters": rule.parameters,
        },
    )


def alert_of(memory: RunMemory, incident: Incident, run: str, time: int, state: AlertState, message: str = "") -> Alert:
    """The event that tells the state of an incident."""
    lead = incident.lead
    going_on = [episode.tell() for episode in memory.episodes.values() if episode.incident == incident.id]
    findings = [*incident.findings, *going_on] or [lead.tell()]
    rules = list(dict.fromkeys(finding["rule"] for finding in findings))
    advice = lead.advice
    if len(rules) >= ROLL_BACK_FROM:
        advice = ROLL_BACK.format(step=min(finding["start_step"] for finding in findings))
    return Alert(
        run=run,
        time=time,
        id=incident.id,
        rule=lead.rule,
        category=incident.group,
        severity=lead.severity,
        state=state,
        step=incident.step,
        message=message or lead.message,
        evidence={**lead.tell(), "rules": rules, "findings": findings, "findings_dropped": incident.dropped, **incident.extra},
        advice="" if state == "cleared" else advice,
        plugin=PLUGIN,
    )
