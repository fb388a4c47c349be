"""What evaluations tell: overfitting and lost accuracy."""

from __future__ import annotations

from math import isfinite, sqrt
from typing import TYPE_CHECKING, ClassVar

from msgspec import field

from trainbus.plugins.anomaly.observations import Observation
from trainbus.plugins.anomaly.rules.base import Count, Deviations, Finding, Fraction, Memory, Pattern, Ratio, Rule, RuleConfig, Samples
from trainbus.plugins.anomaly.track import GAUSS, Track

LAST = 16
"""Evaluations whose noise is known."""
ENOUGH = 6
"""Fewer tell nothing of their noise."""
EVAL_LOSS: tuple[Pattern, ...] = ("eval/loss", "eval/*/loss")
EVAL_ACCURACY: tuple[Pattern, ...] = ("eval/*accuracy*", "eval/*score*", "eval/*exact_match*")

if TYPE_CHECKING:
    from trainbus.plugins.anomaly.memory import RunMemory


class OverfitConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.overfit]``.

    Args:
        rise: Of the evaluation loss above its minimum, as a part of that.
        critical_rise: From here it is critical.
        deviations: It must also be so many robust standard deviations of single evaluations more, beside ``rise``.
        fall: Of the train loss since that minimum, as a part of it.
        persist: Evaluations in a row.
        train: The series of the train loss.
    """

    metrics: tuple[Pattern, ...] = EVAL_LOSS
    clear_after: Count = 2
    rise: Ratio = 0.04
    critical_rise: Ratio = 1.0
    deviations: Deviations = 2.0
    fall: Fraction = 0.02
    persist: Samples = 3
    train: str = "loss"


class Minimum(Memory, array_like=True):
    """The lowest evaluation loss, the level of the train loss then, evaluations in a row that were far above, and the last ones."""

    value: float = 0.0
    step: int = -1
    train: float = 0.0
    above: int = 0
    last: list[float] = field(default_factory=list)


class Overfit(Rule[OverfitConfig, Minimum]):
    """``eval > (1 + rise) * lowest eval + deviations * noise`` while ``train < (1 - fall) * train then``, ``persist`` times in a row.

    Both together: an evaluation loss that rises with the train loss is a divergence and not this.
    """

    name: ClassVar[str] = "overfit"
    kind: ClassVar[str] = "overfit"
    group: ClassVar[str] = "generalisation"
    uses_track: ClassVar[bool] = False
    advice: ClassVar[str] = "Keep the checkpoint of the lowest evaluation loss and stop; more data, fewer epochs or dropout go further."
    memory = Minimum

    def reads(self) -> tuple[str, ...]:
        """The train loss."""
        return (self.config.train,)

    def judge(self, memory: Minimum, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Further and further apart?"""
        config, value = self.config, observation.value
        if not isfinite(value) or value <= 0:
            return None
        train = run.tracks.get(config.train)
        level = train.near if train is not None and train.count and not train.signed else None
        if memory.step < 0 or value < memory.value:
            memory.value, memory.step, memory.train, memory.above = value, observation.step, level or 0.0, 0
            memory.last = [*memory.last[1 - LAST :], value]
            return None
        rise = value / memory.value - 1
        noise = scatter(memory.last)
        memory.last.append(value)
        if len(memory.last) > LAST:
            del memory.last[0]
        if rise <= config.rise + config.deviations * noise / memory.value or level is None or level >= (1 - config.fall) * memory.train:
            memory.above = 0
            return None
        memory.above += 1
        if memory.above < config.persist:
            return None
        message = (
            f"{observation.metric} {value:.4g} at step {observation.step} is {rise:.0%} above its minimum of {memory.value:.4g} at step"
            f" {memory.step}, while {config.train} fell from {memory.train:.4g} to {level:.4g}."
        )
        evidence = {
            "value": value, "baseline": memory.value, "baseline_step": memory.step, "train": level, "train_then": memory.train,
            "noise": noise, "threshold": config.rise,
        }  # fmt: skip
        return Finding(rise, message, evidence, "critical" if rise >= config.critical_rise else None, memory.step)


def scatter(values: list[float]) -> float:
    """Robust standard deviation of single values about a straight line: ``1.4826 * median(|x[t] - 2 x[t-1] + x[t-2]|) / sqrt(6)``.

    Second differences, so that neither a fall nor a steady rise counts as noise. 0.0 while there are fewer than `ENOUGH` values.
    """
    if len(values) < ENOUGH:
        return 0.0
    bends = sorted(abs(late - 2 * middle + early) for early, middle, late in zip(values, values[1:], values[2:], strict=False))
    return GAUSS * bends[len(bends) // 2] / sqrt(6)


class AccuracyDropConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.accuracy_drop]``.

    Args:
        drop: Below the level before, as a part of it.
        persist: Evaluations in a row.
        level: Evaluations whose median is the level.
        ranges: Also by so many times the range of these, once there are as many: accuracy on few questions jumps.
        min_level: A lower accuracy has nothing to lose but noise.
        higher_is_better: False for error rates.
    """

    metrics: tuple[Pattern, ...] = EVAL_ACCURACY
    clear_after: Count = 2
    drop: Fraction = 0.28
    persist: Samples = 3
    level: Samples = 7
    ranges: Ratio = 1.0
    min_level: Ratio = 0.05


class Accuracies(Memory, array_like=True):
    """The last accuracies that count as the level, and how many in a row were low."""

    values: list[float] = field(default_factory=list)
    low: int = 0
    since: int = -1


class AccuracyDrop(Rule[AccuracyDropConfig, Accuracies]):
    """``value < (1 - drop) * median(last level values)``, ``persist`` times in a row; low values stay out of the level.

    Accuracy on fifty questions jumps by a tenth: three low ones in a row are no chance.
    """

    name: ClassVar[str] = "accuracy_drop"
    kind: ClassVar[str] = "accuracy_drop"
    group: ClassVar[str] = "generalisation"
    uses_track: ClassVar[bool] = False
    advice: ClassVar[str] = "Compare answers before and after; go back to the checkpoint before the drop."
    memory = Accuracies

    def judge(self, memory: Accuracies, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Low again?"""
        config, value, values = self.config, observation.value, memory.values
        if not isfinite(value):
            return None
        level = sorted(values)[len(values) // 2] if values else 0.0
        usual = (max(values) - min(values)) * config.ranges if len(values) >= config.level else 0.0
        if len(values) < 2 or level < config.min_level or value >= (1 - config.drop) * level or level - value <= usual:
            memory.low = 0
            values.append(value)
            if len(values) > config.level:
                del values[0]
            return None
        memory.low += 1
        if memory.low == 1:
            memory.since = observation.step
        if memory.low < config.persist:
            return None
        fall = 1 - value / level
        message = (
            f"{observation.metric} {value:.4g} at step {observation.step} is {fall:.0%} below {level:.4g}, its level before step"
            f" {memory.since}; it is the {memory.low}. low one in a row."
        )
        return Finding(
            fall, message, {"value": value, "baseline": level, "window": len(values), "threshold": config.drop}, None, memory.since
        )
