"""Running figures of a run for the page and the status: published as metric events under ``figures/``.

| series | meaning |
| --- | --- |
| accuracy_20, accuracy_50, accuracy_all | share of correct samples among the last 20, 50 and all |
| accuracy_trend | +1, 0 or -1: accuracy_20 is above, within or below 0.02 of accuracy_50 |
| loss_trend | +1, 0 or -1: mean of the last ten losses is above, within or below 0.001 of the ten before, relative to these |
| loss_derivative | slope of the last 50 losses by least squares, a step |
| loss_variance | of the last 50 losses, divided by their squared mean |
| stability | ``100 * exp(-4 * cv) * (1 - rises)``: ``cv`` is the scatter of the last 50 losses about their own trend divided by their mean, and ``rises`` the share of them above 1.25 times their median |
"""  # noqa: E501 - a table has no line breaks

from __future__ import annotations

from bisect import bisect_right
from math import exp, isfinite, sqrt
from operator import mul

from msgspec import Struct, field

from trainbus.bus import events
from trainbus.plugins.anomaly.observations import FIGURES

WINDOW = 50
TREND = 10
FLAT_LOSS = 0.001
FLAT_ACCURACY = 0.02


class Figures(Struct, array_like=True):
    """What they are made of, for one run: the last losses with their steps, the last answers, two counts."""

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    answers: list[bool] = field(default_factory=list)
    asked: int = 0
    right: int = 0
    said: int = -1

    def feed(self, event: events.AnyEvent, every: int) -> list[events.Metric]:
        """Take an event in; returns the figures that are due."""
        if isinstance(event, events.Sample):
            return self._sample(event)
        if not isinstance(event, events.Step) or event.rank:
            return []
        loss = event.metrics.get("loss")
        if loss is not None and isfinite(loss):
            self.steps.append(event.step)
            self.losses.append(loss)
            if len(self.losses) > WINDOW:
                del self.steps[0], self.losses[0]
        if event.step - self.said < every and self.said <= event.step:
            return []
        self.said = event.step
        made = loss_figures(self.steps, self.losses)
        return [_metric(event.run, event.step, event.time, name, value) for name, value in made.items()]

    def _sample(self, event: events.Sample) -> list[events.Metric]:
        if event.correct is None:
            return []
        self.asked += 1
        self.right += event.correct
        self.answers.append(event.correct)
        if len(self.answers) > WINDOW:
            del self.answers[0]
        made = accuracy_figures(self.answers, self.right, self.asked)
        return [_metric(event.run, event.step, event.time, name, value) for name, value in made.items()]


def accuracy_figures(answers: list[bool], right: int, asked: int) -> dict[str, float]:
    """Of the last answers (at most 50) and the counts of all."""
    last_20, last_50 = answers[-20:], answers[-50:]
    twenty, fifty = sum(last_20) / len(last_20), sum(last_50) / len(last_50)
    trend = 0 if abs(twenty - fifty) <= FLAT_ACCURACY else 1 if twenty > fifty else -1
    return {"accuracy_20": twenty, "accuracy_50": fifty, "accuracy_all": right / asked, "accuracy_trend": float(trend)}


def loss_figures(steps: list[int], losses: list[float]) -> dict[str, float]:
    """Of the last losses; empty while there are too few."""
    count = len(losses)
    if count < 2 * TREND:
        return {}
    late, early = sum(losses[-TREND:]) / TREND, sum(losses[-2 * TREND : -TREND]) / TREND
    change = late - early
    trend = 0 if abs(change) <= FLAT_LOSS * abs(early) else 1 if change > 0 else -1
    mean_step, mean = sum(steps) / count, sum(losses) / count
    along, off = [step - mean_step for step in steps], [loss - mean for loss in losses]
    spread = sum(map(mul, along, along))
    slope = sum(map(mul, along, off)) / spread if spread else 0.0
    variance = sum(map(mul, off, off)) / (count - 1)
    made = {"loss_trend": float(trend), "loss_derivative": slope}
    if mean > 0:
        rest = [late - slope * distance for distance, late in zip(along, off, strict=True)]
        about = sum(map(mul, rest, rest)) / (count - 1)
        ordered = sorted(losses)
        rises = (count - bisect_right(ordered, 1.25 * ordered[count // 2])) / count
        made |= {"loss_variance": variance / mean**2, "stability": 100 * exp(-4 * sqrt(about) / mean) * (1 - rises)}
    return made


def _metric(run: str, step: int, time: int, name: str, value: float) -> events.Metric:
    return events.Metric(run=run, time=time, name=FIGURES + name, value=value, step=step)
