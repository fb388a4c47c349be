"""Rules fed by hand: configurations with one rule, series of values, what the detector said."""

from __future__ import annotations

import msgspec

from trainbus.bus.events import Alert, Eval, Step
from trainbus.plugins.anomaly.catalogue import RulesConfig
from trainbus.plugins.anomaly.config import AnomalyConfig
from trainbus.plugins.anomaly.detector import Detector

SECOND = 10**9


def only(rule, **parameters):
    """All rules but one are off."""
    return msgspec.convert({"preset": "none", "rules": {rule: {"enabled": True} | parameters}}, AnomalyConfig)


def configured(**settings):
    return msgspec.convert(settings, AnomalyConfig)


def steps(values, *, metric="loss", first=1, stride=1, run="r", epoch=None, **others):
    """One step event for each value; ``others`` are series of further metrics."""
    made = []
    for number, value in enumerate(values):
        step = first + number * stride
        metrics = {metric: value} | {name: series[number] for name, series in others.items()}
        made.append(Step(run=run, step=step, time=step * SECOND, epoch=epoch, metrics=metrics))
    return made


def evals(values, *, metric="loss", first=10, every=10, run="r"):
    return [
        Eval(run=run, step=first + number * every, time=(first + number * every) * SECOND + 1, metrics={metric: value})
        for number, value in enumerate(values)
    ]


def said(config, *feeds) -> list[Alert]:
    detector = Detector(config.active_rules())
    return [alert for feed in feeds for event in feed for alert in detector.feed(event)]


def raised(config, *feeds):
    """(rule, severity, step of the value) of every alert that was raised."""
    return [(alert.rule, alert.severity, alert.step) for alert in said(config, *feeds) if alert.state == "raised"]


def states(alerts):
    return [(alert.state, alert.severity, alert.evidence["end_step"]) for alert in alerts]


RULES = RulesConfig.__struct_fields__
