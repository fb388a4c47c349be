"""The life of an alert: one incident is raised once, updated when it gets worse, cleared when it is over."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct, field

from trainbus.bus.events import Alert, AlertState, Severity
from trainbus.plugins.anomaly.observations import Observation
from trainbus.plugins.anomaly.rules import Finding, Rule

PLUGIN = "anomaly"
WORSE_BY = 1.5
"""An incident is updated when its score has grown by this factor: a long one gives a handful of updates, not one a step."""


class Incident(Struct, array_like=True):
    """An open incident, as it is kept in the plugin's state."""

    id: str
    rule: str
    category: str
    severity: Severity
    metric: str
    step: int
    score: float
    message: str
    advice: str
    evidence: dict[str, Any] = field(default_factory=dict)
    count: int = 1
    quiet: int = 0


def open_incident(rule: Rule, run: str, observation: Observation, finding: Finding, history: list[tuple[int, float]]) -> Incident:
    """The incident that begins with this finding. Its id follows from rule, metric, run and step alone.

    Args:
        history: The series' last (step, value) pairs up to this one: evidence, too.
    """
    return Incident(
        id=f"{rule.name}:{observation.metric}:{run}:{observation.step}",
        rule=rule.name,
        category=rule.category,
        severity=rule.config.severity,
        metric=observation.metric,
        step=observation.step,
        score=finding.score,
        message=finding.message,
        advice=rule.advice,
        evidence={
            "metric": observation.metric,
            "score": finding.score,
            **finding.evidence,
            "history": [list(point) for point in history],
            "parameters": msgspec.to_builtins(rule.config),
        },
    )


def follow(incident: Incident, rule: Rule, run: str, observation: Observation, finding: Finding | None) -> Alert | None:
    """Take the next value of an incident's series into account.

    Returns:
        The alert to publish, if any: ``updated`` when it got clearly worse, ``cleared`` after ``clear_after`` quiet values in a row.
        Whoever gets a cleared one forgets the incident.
    """
    if finding is None:
        incident.quiet += 1
        if incident.quiet < rule.config.clear_after:
            return None
        quiet = f"{observation.metric} has been quiet for {incident.quiet} values at step {observation.step}"
        message = f"{quiet}, after {incident.count} that were not."
        return alert_of(incident, run, observation.time, "cleared", message, last_step=observation.step)
    incident.quiet = 0
    incident.count += 1
    if finding.score <= incident.score * WORSE_BY:
        return None
    incident.score = finding.score
    incident.evidence |= {"score": finding.score, **finding.evidence}
    return alert_of(incident, run, observation.time, "updated", finding.message, last_step=observation.step)


def alert_of(incident: Incident, run: str, time: int, state: AlertState, message: str = "", **evidence: Any) -> Alert:
    """The event that tells the state of an incident."""
    return Alert(
        run=run,
        time=time,
        id=incident.id,
        rule=incident.rule,
        category=incident.category,
        severity=incident.severity,
        state=state,
        step=incident.step,
        message=message or incident.message,
        evidence={**incident.evidence, "count": incident.count, **evidence},
        advice="" if state == "cleared" else incident.advice,
        plugin=PLUGIN,
    )
