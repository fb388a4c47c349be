"""Gradient norms: explosion, vanishing, and a clip that never lets go."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, ClassVar

from trainbus.bus.events import Severity
from trainbus.plugins.anomaly.observations import Observation
from trainbus.plugins.anomaly.rules.base import (
    Count,
    Deviations,
    Finding,
    Fraction,
    Nothing,
    Pattern,
    Ratio,
    Rule,
    RuleConfig,
    Samples,
    Streak,
)
from trainbus.plugins.anomaly.track import WINDOW, Track

GRAD_NORM: tuple[Pattern, ...] = ("grad_norm", "*/grad_norm")

if TYPE_CHECKING:
    from trainbus.plugins.anomaly.memory import RunMemory


class GradSpikeConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.grad_spike]``.

    Args:
        factor: Times the median of the last 32 values.
        early_factor: The same while there are fewer than ``min_samples`` values: the first steps are wild.
        critical_factor: From here it is critical.
        deviations: It must also be so many robust standard deviations above that median.
        min_samples: See ``early_factor``.
    """

    metrics: tuple[Pattern, ...] = GRAD_NORM
    clear_after: Count = 2
    factor: Ratio = 4.5
    early_factor: Ratio = 100.0
    critical_factor: Ratio = 10_000.0
    deviations: Deviations = 0.0
    min_samples: Samples = 20


class GradSpike(Rule[GradSpikeConfig, Nothing]):
    """``value > factor * median(last 32)`` and ``value - median > deviations * spread``, the robust scatter of the same values."""

    name: ClassVar[str] = "grad_spike"
    kind: ClassVar[str] = "grad_spike"
    of_data: ClassVar[bool] = True
    advice: ClassVar[str] = "Clip gradients by norm; if it comes again, look at the batch of this step and lower the learning rate."
    memory = Nothing

    def judge(self, memory: Nothing, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Far above the usual norm?"""
        config, value, ordered = self.config, observation.value, track.ordered
        if not ordered or not isfinite(value) or track.signed:
            return None
        median = ordered[len(ordered) // 2]
        factor = config.factor if track.count >= config.min_samples else config.early_factor
        if value <= factor * median or median <= 0.0 or value - median <= config.deviations * track.spread:
            return None
        ratio = value / median
        message = f"{observation.metric} {value:.4g} at step {observation.step} is {ratio:.1f} times {median:.4g}, the median before."
        evidence = {"value": value, "baseline": median, "spread": track.spread, "window": len(ordered), "factor": factor}
        return Finding(ratio, message, evidence, "info" if run.odd else "critical" if ratio >= config.critical_factor else None)


class GradVanishingConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.grad_vanishing]``.

    Args:
        below: Absolute limit.
        fraction: Also below this part of the median of the last 32 values.
        persist: For so many values in a row.
    """

    metrics: tuple[Pattern, ...] = GRAD_NORM
    below: Ratio = 1e-7
    fraction: Fraction = 1e-3
    persist: Samples = 3


class GradVanishing(Rule[GradVanishingConfig, Streak]):
    """``value < below``, or ``value < fraction * median(last 32)``, ``persist`` times in a row: nothing is learned any more."""

    name: ClassVar[str] = "grad_vanishing"
    kind: ClassVar[str] = "grad_vanishing"
    group: ClassVar[str] = "learning"
    advice: ClassVar[str] = "Check that parameters require gradients, that the loss depends on them, and that fp16 does not underflow."
    memory = Streak

    def judge(self, memory: Streak, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Next to nothing?"""
        value, config = observation.value, self.config
        low = value < config.below or (track.count > 0 and value < config.fraction * track.median)
        if memory.extend(low, observation.step) < config.persist:
            return None
        message = f"{observation.metric} has been {value:.3g} or so for {memory.length} values up to step {observation.step}."
        baseline = track.median if track.count else None
        return Finding(float(memory.length), message, {"value": value, "baseline": baseline, "below": config.below}, None, memory.since)


class ClippingConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.clipping_saturated]``.

    Args:
        share: Of the last 32 values that equal the largest of them to four digits.
    """

    metrics: tuple[Pattern, ...] = GRAD_NORM
    severity: Severity = "info"
    share: Fraction = 0.9


class ClippingSaturated(Rule[ClippingConfig, Nothing]):
    """Nearly all of the last 32 norms equal their maximum: what is logged is the clipped norm, and the clip works at every step.

    Only for loops that log the norm after clipping; most log it before, and then this stays silent.
    """

    name: ClassVar[str] = "clipping_saturated"
    kind: ClassVar[str] = "clipping"
    group: ClassVar[str] = "learning"
    advice: ClassVar[str] = "Every update is clipped: the limit acts as the learning rate. Raise it, or lower the learning rate."
    memory = Nothing

    def judge(self, memory: Nothing, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """At the limit again and again?"""
        ordered = track.ordered
        if len(ordered) < WINDOW or ordered[-1] <= 0.0:
            return None
        # Sorted: when the value at this place equals the largest, all above it do.
        limit, low = ordered[-1], ordered[int(len(ordered) * (1 - self.config.share))]
        if low < limit * 0.9999 or ordered[0] == limit == 0.0 or observation.value < limit * 0.9999:
            return None
        message = f"{observation.metric} has been at {limit:.4g} for {self.config.share:.0%} of the last {WINDOW} values."
        return Finding(1.0, message, {"value": observation.value, "limit": limit, "window": WINDOW})
