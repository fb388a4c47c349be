"""The best model so far."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, ClassVar, Literal

from trainbus.bus.events import Severity
from trainbus.plugins.anomaly.observations import Observation
from trainbus.plugins.anomaly.rules.base import BOTH, Finding, Fraction, Memory, Pattern, Rule, RuleConfig
from trainbus.plugins.anomaly.track import Track

if TYPE_CHECKING:
    from trainbus.plugins.anomaly.memory import RunMemory


class NewBestConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.new_best]``: better than the best so far by more than ``min_improvement`` of it.

    Args:
        direction: "min" for losses, "max" for accuracies; "auto" takes max for names with accuracy, score, reward, match or f1.
        min_improvement: As a part of the best announced so far.
    """

    metrics: tuple[Pattern, ...] = ("eval/*loss",)
    severity: Severity = "info"
    direction: Literal["min", "max", "auto"] = "auto"
    min_improvement: Fraction = 0.02


class Best(Memory, array_like=True):
    """The best value that was announced, and its step."""

    value: float | None = None
    step: int = 0


class NewBest(Rule[NewBestConfig, Best]):
    """Better than the last announced best by more than ``min_improvement`` of its size.

    Compared with the last one *announced*, so that many small improvements add up to news. NaN, infinities and an exact 0.0 are never
    best: they are what broken evaluations report. An evaluation that arrives late is judged by its value; its own step is told.
    """

    name: ClassVar[str] = "new_best"
    kind: ClassVar[str] = "new_best"
    group: ClassVar[str] = "best"
    uses_track: ClassVar[bool] = False
    advice: ClassVar[str] = "The checkpoint of this step is the one to keep."
    lasting: ClassVar[bool] = False
    survives: ClassVar[bool] = True
    presets: ClassVar[frozenset[str]] = BOTH
    memory = Best

    def judge(self, memory: Best, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Better by enough?"""
        value, before = observation.value, memory.value
        if not isfinite(value) or value == 0.0:
            return None
        gain = 0.0
        if before is not None:
            gain = (value - before if self._upward(observation.metric) else before - value) / abs(before)
            if gain <= self.config.min_improvement:
                return None
        evidence = {"value": value, "baseline": before, "threshold": self.config.min_improvement}
        message = f"{observation.metric} {value:.4g} at step {observation.step} is the "
        message += "first best." if before is None else f"new best, {gain:.1%} better than {before:.4g} at step {memory.step}."
        memory.value, memory.step = value, observation.step
        return Finding(score=gain, message=message, evidence=evidence)

    def _upward(self, metric: str) -> bool:
        if self.config.direction != "auto":
            return self.config.direction == "max"
        return any(word in metric for word in ("accuracy", "score", "reward", "match", "f1"))
