"""What the detector says about a history, one line for each rule and incident.

There is no second detector here: events go through the `Detector` of the live plugin, and findings are read off its alerts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from trainbus.bus import events
from trainbus.plugins.anomaly.config import AnomalyConfig
from trainbus.plugins.anomaly.detector import Detector

TOLD = frozenset({"rule", "kind", "metric", "severity", "step", "start_step", "end_step", "score", "message"})


class FoundLine(Struct, kw_only=True):
    """One rule, broken on one series, in one incident.

    Args:
        file: The history; a run's id for one of the journal.
        run: Its run.
        alert: Id of the incident's alert; findings with the same one are one incident.
        kind: In the words of labels.
        severity: The highest that it reached.
        step: At which it was said; of a note that has become a warning, when it became one.
        start_step: Where it began.
        end_step: The last step that broke the rule.
    """

    file: str
    run: str
    alert: str
    rule: str
    kind: str
    metric: str
    severity: events.Severity
    step: int
    start_step: int
    end_step: int
    score: float
    message: str
    advice: str = ""
    evidence: dict[str, Any] = {}


def backtest(file: str, history: Iterable[events.AnyEvent], config: AnomalyConfig) -> list[FoundLine]:
    """Feed a history to the detector; returns the findings in the order in which they were first said.

    Args:
        file: What the findings name as their source.
        history: Events in order.
        config: As of the plugin.
    """
    detector = Detector(config.active_rules())
    found: dict[tuple[str, str, str, int], FoundLine] = {}
    for event in history:
        for alert in detector.feed(event):
            collect(file, alert, found)
    # An episode that went on quietly tells its last step only here: no alert was due for it.
    for run, memory in detector.runs.items():
        for episode in memory.episodes.values():
            line = found.get((episode.incident, episode.rule, episode.metric, episode.start))
            if line is not None and line.run == run:
                line.end_step = episode.last
    return list(found.values())


def collect(file: str, alert: events.Alert, found: dict[tuple[str, str, str, int], FoundLine]) -> None:
    """Take an alert's findings in; what was known of them before is replaced."""
    for told in alert.evidence["findings"]:
        key = (alert.id, told["rule"], told["metric"], told["start_step"])
        line = FoundLine(
            file=file,
            run=alert.run,
            alert=alert.id,
            advice=alert.advice or (found[key].advice if key in found else ""),
            evidence={name: value for name, value in told.items() if name not in TOLD},
            **{name: told[name] for name in TOLD},
        )
        found[key] = line
