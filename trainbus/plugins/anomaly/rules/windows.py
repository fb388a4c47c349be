"""Rules of preset `classic` that compare a value with the mean of a window before it."""

from __future__ import annotations

from math import dist, isfinite, sqrt
from typing import TYPE_CHECKING, ClassVar, Literal

from msgspec import field

from trainbus.bus.events import Severity
from trainbus.plugins.anomaly.observations import Observation
from trainbus.plugins.anomaly.rules.base import (
    CLASSIC,
    Cooldown,
    Deviations,
    Finding,
    Fraction,
    Memory,
    Pattern,
    Ratio,
    Rule,
    RuleConfig,
    Samples,
)
from trainbus.plugins.anomaly.rules.learning import EVAL_ACCURACY
from trainbus.plugins.anomaly.rules.schedule import LEARNING_RATE
from trainbus.plugins.anomaly.track import Track

if TYPE_CHECKING:
    from trainbus.plugins.anomaly.memory import RunMemory


class Window(Memory, array_like=True):
    """The last finite values that did not break the rule; for ``hold`` in a row that did, they stay out."""

    values: list[float] = field(default_factory=list)
    held: int = 0

    def add(self, value: float, size: int, *, breaks: bool = False) -> None:
        """Remember a value that has been judged. After as many breaking ones as the window holds, they are the new normal."""
        if breaks and self.held < size:
            self.held += 1
            return
        if not breaks:
            self.held = 0
        values = self.values
        values.append(value)
        if len(values) > size:
            del values[0]


def mean(values: list[float]) -> float:
    """Of at least one value."""
    return sum(values) / len(values)


def deviation(values: list[float], center: float) -> float:
    """Sample standard deviation; ``math.dist`` works it out in C."""
    return dist(values, [center] * len(values)) / sqrt(len(values) - 1) if len(values) > 1 else 0.0


class SpikeMeanConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.spike_over_mean]``."""

    threshold: Ratio = 0.3
    window: Samples = 5
    cooldown: Cooldown = 500
    metrics: tuple[Pattern, ...] = ("loss",)


class SpikeOverMean(Rule[SpikeMeanConfig, Window]):
    """``value > (1 + threshold) * mean(last window values)``, which do not include the value."""

    name: ClassVar[str] = "spike_over_mean"
    kind: ClassVar[str] = "loss_spike"
    presets: ClassVar[frozenset[str]] = CLASSIC
    uses_track: ClassVar[bool] = False
    advice: ClassVar[str] = "Look at the batch and the learning rate of this step."
    memory = Window

    def judge(self, memory: Window, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Too far above the mean?"""
        value, config = observation.value, self.config
        if not isfinite(value) or value == 0.0:
            return None
        values = memory.values
        baseline = sum(values) / len(values) if len(values) >= config.window else 0.0
        breaks = baseline > 0 and value > (1 + config.threshold) * baseline
        memory.add(value, config.window, breaks=breaks)
        if not breaks:
            return None
        rise = value / baseline - 1
        message = f"{observation.metric} {value:.4g} at step {observation.step} is {rise:.0%} above {baseline:.4g}, the mean of the"
        return Finding(rise, f"{message} {config.window} before.", {"value": value, "baseline": baseline, "window": config.window})


class SpikeTenfoldConfig(SpikeMeanConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.spike_tenfold]``."""

    severity: Severity = "critical"
    threshold: Ratio = 9.0
    window: Samples = 10
    cooldown: Cooldown = 0


class SpikeTenfold(SpikeOverMean):
    """A loss of more than ten times the mean of the ten before it."""

    name: ClassVar[str] = "spike_tenfold"


class ZScoreConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.z_score]``, for metrics of your own.

    Args:
        threshold: Standard deviations from the mean.
        window: Of the last values that were no outliers.
        min_samples: So many values are needed before the rule says anything.
        side: "above" for series where only high is bad.
        floor: The standard deviation counts as at least this part of the mean.
    """

    metrics: tuple[Pattern, ...] = ()
    severity: Severity = "info"
    threshold: Deviations = 3.0
    window: Samples = 50
    min_samples: Samples = 10
    side: Literal["above", "below", "both"] = "both"
    floor: Fraction = 0.01


class ZScore(Rule[ZScoreConfig, Window]):
    """``|value - mean| > threshold * max(sigma, floor * |mean|)`` over the values before it."""

    name: ClassVar[str] = "z_score"
    kind: ClassVar[str] = "outlier"
    group: ClassVar[str] = "outlier"
    presets: ClassVar[frozenset[str]] = CLASSIC | {"default"}
    uses_track: ClassVar[bool] = False
    advice: ClassVar[str] = "A single outlier is usually one odd batch; watch whether the next values come back."
    memory = Window

    def judge(self, memory: Window, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Too many standard deviations away?"""
        config, value, values = self.config, observation.value, memory.values
        if not isfinite(value):
            return None
        found = self._compare(values, observation) if len(values) >= config.min_samples else None
        memory.add(value, config.window, breaks=found is not None)
        return found

    def _compare(self, values: list[float], observation: Observation) -> Finding | None:
        config, center = self.config, mean(values)
        distance, floor = observation.value - center, config.floor * abs(center)
        wrong_side = (config.side == "above" and distance < 0) or (config.side == "below" and distance > 0)
        if wrong_side or abs(distance) <= config.threshold * floor:
            return None  # most values end here, before the scatter is worked out
        sigma = deviation(values, center)
        spread = max(sigma, floor)
        if spread == 0.0 or abs(distance) <= config.threshold * spread:
            return None
        z = distance / spread
        message = f"{observation.metric} {observation.value:.4g} at step {observation.step} is {abs(z):.1f} standard deviations"
        message += f" {'above' if z > 0 else 'below'} {center:.4g}, the mean of the {len(values)} before."
        return Finding(abs(z), message, {"value": observation.value, "baseline": center, "sigma": sigma, "z": z, "window": len(values)})


class LossZConfig(ZScoreConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.loss_z_score]``."""

    metrics: tuple[Pattern, ...] = ("loss",)
    severity: Severity = "warning"
    window: Samples = 10
    side: Literal["above", "below", "both"] = "above"
    cooldown: Cooldown = 500


class LossZScore(ZScore):
    """Loss more than three standard deviations above the mean of the ten before it."""

    name: ClassVar[str] = "loss_z_score"
    kind: ClassVar[str] = "loss_spike"
    group: ClassVar[str] = "stability"
    presets: ClassVar[frozenset[str]] = CLASSIC


class RateZConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.lr_z_score]``."""

    metrics: tuple[Pattern, ...] = LEARNING_RATE
    threshold: Deviations = 3.0
    window: Samples = 20
    min_samples: Samples = 5
    floor: Fraction = 0.1


class RateZScore(Rule[RateZConfig, Window]):
    """The change of the learning rate is more than ``threshold`` standard deviations from the mean change.

    Of changes and not of values, with a floor of a tenth of the rate: a schedule, whose values leave any window, changes evenly.
    """

    name: ClassVar[str] = "lr_z_score"
    kind: ClassVar[str] = "lr_glitch"
    group: ClassVar[str] = "schedule"
    presets: ClassVar[frozenset[str]] = CLASSIC
    advice: ClassVar[str] = "Check the scheduler and its state after a resume."
    memory = Window

    def judge(self, memory: Window, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """A jump?"""
        value, config = observation.value, self.config
        if not isfinite(value) or not track.count:
            return None
        last = track.values[-1]
        change = value - last
        z = 0.0
        if len(memory.values) >= config.min_samples:
            center = mean(memory.values)
            floor = config.floor * abs(last)
            if abs(change - center) > config.threshold * floor:  # most values end here, before the scatter is worked out
                spread = max(deviation(memory.values, center), floor)
                z = (change - center) / spread if spread > 0 else 0.0
        breaks = abs(z) > config.threshold
        memory.add(change, config.window, breaks=breaks)
        if not breaks:
            return None
        message = (
            f"{observation.metric} changed from {last:.4g} to {value:.4g} at step {observation.step}, {abs(z):.1f} standard deviations."
        )
        return Finding(abs(z), message, {"value": value, "baseline": last, "z": z})


class AccuracyPointsConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.accuracy_points]``.

    Args:
        points: Percentage points below the mean of the window; accuracies up to 1 are taken for fractions.
        window: Of the values before.
        min_samples: At least so many.
    """

    metrics: tuple[Pattern, ...] = (*EVAL_ACCURACY, "accuracy", "running_accuracy*")
    points: Ratio = 10.0
    window: Samples = 10
    min_samples: Samples = 5


class AccuracyPoints(Rule[AccuracyPointsConfig, Window]):
    """Accuracy more than ten points below the mean of the ten before."""

    name: ClassVar[str] = "accuracy_points"
    kind: ClassVar[str] = "accuracy_drop"
    group: ClassVar[str] = "generalisation"
    presets: ClassVar[frozenset[str]] = CLASSIC
    uses_track: ClassVar[bool] = False
    advice: ClassVar[str] = "Compare answers before and after; go back to the checkpoint before the drop."
    memory = Window

    def judge(self, memory: Window, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Ten points down?"""
        value, config = observation.value, self.config
        if not isfinite(value):
            return None
        baseline = mean(memory.values) if len(memory.values) >= config.min_samples else value
        points = (baseline - value) * (100.0 if max(baseline, value) <= 1.0 else 1.0)
        breaks = points > config.points + 1e-9
        memory.add(value, config.window, breaks=breaks)
        if not breaks:
            return None
        message = f"{observation.metric} {value:.4g} at step {observation.step} is {points:.1f} points below {baseline:.4g}."
        return Finding(points, message, {"value": value, "baseline": baseline, "window": len(memory.values)})
