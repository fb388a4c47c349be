"""Rules of preset `classic` that look at the shape of a window: rising, flat, scattered, far from the beginning."""

from __future__ import annotations

from itertools import pairwise
from math import isfinite, sqrt
from operator import gt
from typing import TYPE_CHECKING, Annotated, ClassVar, TypeAlias

from msgspec import Meta, field

from trainbus.bus.events import Severity
from trainbus.plugins.anomaly.observations import SILENCE, Observation
from trainbus.plugins.anomaly.rules.base import (
    CLASSIC,
    STILL,
    Cooldown,
    Count,
    Finding,
    Fraction,
    Memory,
    Nothing,
    Pattern,
    Ratio,
    Rule,
    RuleConfig,
    Samples,
)
from trainbus.plugins.anomaly.rules.learning import EVAL_LOSS
from trainbus.plugins.anomaly.rules.windows import deviation, mean
from trainbus.plugins.anomaly.track import WINDOW, Track

if TYPE_CHECKING:
    from trainbus.plugins.anomaly.memory import RunMemory


Window: TypeAlias = Annotated[int, Meta(ge=2, le=WINDOW + 1)]
"""Values that these rules look at: those that a track holds, and the one under test."""


def last(track: Track, value: float, count: int) -> list[float] | None:
    """The last ``count`` values with the one under test; None when there are fewer or it is not finite."""
    if len(track.values) < count - 1 or not isfinite(value):
        return None
    return [*track.values[1 - count :], value]


class RisingConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.rising_loss]``.

    Args:
        share: Of the neighbours in the window, the later one is higher.
        window: Values.
    """

    severity: Severity = "critical"
    share: Fraction = 0.8
    window: Window = 10
    cooldown: Cooldown = 500


class RisingLoss(Rule[RisingConfig, Nothing]):
    """At least 80 % of the steps from one value to the next in a window of ten go up."""

    name: ClassVar[str] = "rising_loss"
    kind: ClassVar[str] = "divergence"
    presets: ClassVar[frozenset[str]] = CLASSIC
    advice: ClassVar[str] = "Lower the learning rate, and go back to the checkpoint before the rise."
    memory = Nothing

    def judge(self, memory: Nothing, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Up and up?"""
        config = self.config
        values = last(track, observation.value, config.window)
        if values is None:
            return None
        share = sum(map(gt, values[1:], values)) / (len(values) - 1)
        if share < config.share:
            return None
        message = (
            f"{observation.metric} rose in {share:.0%} of the last {len(values)} values, to {values[-1]:.4g} at step {observation.step}."
        )
        return Finding(share, message, {"value": values[-1], "baseline": values[0], "share": share, "window": len(values)})


class FlatConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.flat_loss_50]``.

    Args:
        improvement: From the mean of the first to that of the second half of the window, as a part of it.
        window: Values.
    """

    severity: Severity = "info"
    improvement: Fraction = 0.01
    window: Window = 50
    clear_after: Count = 5
    cooldown: Cooldown = 500


class FlatLoss50(Rule[FlatConfig, Nothing]):
    """The last 50 losses have improved by less than 1 %."""

    name: ClassVar[str] = "flat_loss_50"
    kind: ClassVar[str] = "plateau"
    group: ClassVar[str] = "learning"
    presets: ClassVar[frozenset[str]] = CLASSIC
    advice: ClassVar[str] = "Change the learning rate, or stop: nothing improves."
    memory = Nothing

    def judge(self, memory: Nothing, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Flat?"""
        config, values, value = self.config, track.values, observation.value
        count, have = config.window, len(values)
        if have < count - 1 or not isfinite(value):
            return None
        half = count // 2
        middle = have + 1 - (count - half)
        early = sum(values[middle - half : middle]) / half
        late = (sum(values[middle:]) + value) / (count - half)
        if early <= 0 or abs(early - late) >= config.improvement * early:
            return None
        if self.goes_on(observation, run):
            return STILL
        message = f"{observation.metric} has changed by {(late - early) / early:+.2%} over the last {count} values up to step"
        return Finding(1.0, f"{message} {observation.step}.", {"value": late, "baseline": early, "window": count})


class Flat20Config(FlatConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.flat_loss_20]``."""

    improvement: Fraction = 0.02
    window: Window = 20


class FlatLoss20(FlatLoss50):
    """The last 20 losses have improved by less than 2 %."""

    name: ClassVar[str] = "flat_loss_20"


class FlatLossConfig(FlatConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.flat_loss_strict]``."""

    improvement: Fraction = 0.001
    window: Window = 20


class FlatLossStrict(FlatLoss50):
    """The last 20 losses have improved by less than 0.1 %: the diagnostics' sign of a learning rate that is too low."""

    name: ClassVar[str] = "flat_loss_strict"


class VarianceConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.loss_variance]``: variance above ``factor * mean²`` over ``window`` values."""

    factor: Ratio = 0.25
    window: Window = 50
    min_samples: Samples = 10
    cooldown: Cooldown = 500


class LossVariance(Rule[VarianceConfig, Nothing]):
    """The variance of the last 50 losses is above 0.25 times the square of their mean."""

    name: ClassVar[str] = "loss_variance"
    kind: ClassVar[str] = "instability"
    presets: ClassVar[frozenset[str]] = CLASSIC
    advice: ClassVar[str] = "A larger batch or a lower learning rate calms it."
    memory = Nothing

    def judge(self, memory: Nothing, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Scattered?"""
        config = self.config
        if track.count < max(config.min_samples, 2) - 1 or not isfinite(observation.value):
            return None
        ordered = track.ordered
        # The standard deviation is at most half of the range: most values end here.
        if 1.1 * (max(ordered[-1], observation.value) - ordered[0]) < 2 * sqrt(config.factor) * min(ordered[0], observation.value):
            return None
        values = [*track.values[1 - config.window :], observation.value]
        center = mean(values)
        spread = deviation(values, center)
        if spread * spread <= config.factor * center * center or center <= 0:
            return None
        ratio = spread * spread / (center * center)
        message = f"The variance of the last {len(values)} values of {observation.metric} is {ratio:.2f} times their squared mean."
        return Finding(ratio, message, {"value": spread * spread, "baseline": center, "window": len(values)})


class OscillationConfig(VarianceConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.loss_oscillation]``: as `loss_variance`, over 20 values: a standard deviation above half the mean."""

    window: Window = 20


class LossOscillation(LossVariance):
    """The standard deviation of the last 20 losses is above half their mean: the diagnostics' sign of a learning rate that is too high."""

    name: ClassVar[str] = "loss_oscillation"


class TenfoldConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.loss_tenfold]``: loss above ``factor`` times the lowest so far."""

    severity: Severity = "critical"
    factor: Ratio = 10.0
    min_samples: Samples = 5


class LossTenfold(Rule[TenfoldConfig, Nothing]):
    """A loss of more than ten times the lowest in the window of the last values."""

    name: ClassVar[str] = "loss_tenfold"
    kind: ClassVar[str] = "divergence"
    presets: ClassVar[frozenset[str]] = CLASSIC
    advice: ClassVar[str] = "Stop, and go back to a checkpoint before the rise."
    memory = Nothing

    def judge(self, memory: Nothing, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Ten times?"""
        if track.count < self.config.min_samples or not isfinite(observation.value):
            return None
        lowest = track.ordered[0]
        if lowest <= 0 or observation.value <= self.config.factor * lowest:
            return None
        ratio = observation.value / lowest
        message = (
            f"{observation.metric} {observation.value:.4g} at step {observation.step} is {ratio:.0f} times {lowest:.4g}, the lowest lately."
        )
        return Finding(ratio, message, {"value": observation.value, "baseline": lowest})


class UpwardConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.loss_upward]``: mean of the second half of the window above ``factor`` times that of the first."""

    factor: Ratio = 1.1
    window: Window = 20
    cooldown: Cooldown = 500


class LossUpward(Rule[UpwardConfig, Nothing]):
    """The mean of the last ten losses is above 1.1 times that of the ten before: the diagnostics' slow divergence."""

    name: ClassVar[str] = "loss_upward"
    kind: ClassVar[str] = "divergence"
    presets: ClassVar[frozenset[str]] = CLASSIC
    advice: ClassVar[str] = "Lower the learning rate."
    memory = Nothing

    def judge(self, memory: Nothing, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Upward?"""
        config = self.config
        values = last(track, observation.value, config.window)
        if values is None:
            return None
        half = len(values) // 2
        early, late = mean(values[:half]), mean(values[half:])
        if early <= 0 or late <= config.factor * early:
            return None
        message = (
            f"The mean of the last {half} values of {observation.metric} is {late:.4g}, {late / early - 1:.0%} above the {half} before."
        )
        return Finding(late / early, message, {"value": late, "baseline": early, "window": len(values)})


class GapConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.validation_gap]``.

    Args:
        above: Evaluation loss less train loss.
        critical_above: From here it is critical.
        train: The series of the train loss.
    """

    metrics: tuple[Pattern, ...] = EVAL_LOSS
    clear_after: Count = 1
    above: Ratio = 0.3
    critical_above: Ratio = 0.5
    train: str = "loss"


class ValidationGap(Rule[GapConfig, Nothing]):
    """The evaluation loss is 0.3 (critical: 0.5) above the level of the train loss."""

    name: ClassVar[str] = "validation_gap"
    kind: ClassVar[str] = "overfit"
    group: ClassVar[str] = "generalisation"
    presets: ClassVar[frozenset[str]] = CLASSIC
    uses_track: ClassVar[bool] = False
    advice: ClassVar[str] = "Stop early, or regularise: the model knows its training data better than anything else."
    memory = Nothing

    def reads(self) -> tuple[str, ...]:
        """The train loss."""
        return (self.config.train,)

    def judge(self, memory: Nothing, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Far apart?"""
        train = run.tracks.get(self.config.train)
        if train is None or not train.count or not isfinite(observation.value):
            return None
        level = train.near
        gap = observation.value - level
        if gap <= self.config.above:
            return None
        message = f"{observation.metric} {observation.value:.4g} at step {observation.step} is {gap:.2f} above the train loss {level:.4g}."
        severity: Severity | None = "critical" if gap > self.config.critical_above else None
        return Finding(gap, message, {"value": observation.value, "baseline": level, "gap": gap}, severity)


class LeakConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.memory_leak]``: more than ``mib_a_step`` MiB a step over ``window`` samples."""

    metrics: tuple[Pattern, ...] = ("host/trainer_mib", "memory_mib", "*/memory_mib")
    mib_a_step: Ratio = 10.0
    window: Samples = 10


class Growth(Memory, array_like=True):
    """Step and size of the last samples."""

    steps: list[int] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)


class MemoryLeak(Rule[LeakConfig, Growth]):
    """A process grows by more than 10 MiB a step over ten samples, in at least four of five of them."""

    name: ClassVar[str] = "memory_leak"
    kind: ClassVar[str] = "memory"
    group: ClassVar[str] = "memory"
    presets: ClassVar[frozenset[str]] = CLASSIC
    uses_track: ClassVar[bool] = False
    advice: ClassVar[str] = "Look for tensors that are kept with their graph: losses that are summed without .item()."
    memory = Growth

    def judge(self, memory: Growth, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Growing and growing?"""
        config, steps, sizes = self.config, memory.steps, memory.sizes
        steps.append(observation.step)
        sizes.append(observation.value)
        if len(steps) > config.window:
            del steps[0], sizes[0]
        passed = steps[-1] - steps[0]
        if len(steps) < config.window or passed <= 0:
            return None
        rate = (sizes[-1] - sizes[0]) / passed
        ups = sum(late > early for early, late in pairwise(sizes))
        if rate <= config.mib_a_step or ups < 0.8 * (len(sizes) - 1):
            return None
        message = f"{observation.metric} has grown by {rate:.1f} MiB a step over the last {passed} steps, to {sizes[-1]:.0f} MiB."
        return Finding(rate, message, {"value": sizes[-1], "baseline": sizes[0], "mib_a_step": rate})


class HangConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.hang]``: no sign of progress for ``seconds``."""

    metrics: tuple[Pattern, ...] = (SILENCE,)
    severity: Severity = "critical"
    clear_after: Count = 1
    seconds: Ratio = 60.0


class Hang(Rule[HangConfig, Nothing]):
    """No step for 60 s outside of evaluations, saving and other phases."""

    name: ClassVar[str] = "hang"
    kind: ClassVar[str] = "stalled_run"
    group: ClassVar[str] = "speed"
    presets: ClassVar[frozenset[str]] = CLASSIC
    uses_track: ClassVar[bool] = False
    advice: ClassVar[str] = "Look at the process's stack (py-spy dump)."
    memory = Nothing

    def judge(self, memory: Nothing, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Silent for too long?"""
        if observation.value <= self.config.seconds:
            return None
        message = f"No step for {observation.value:.0f} s after step {run.last_step}."
        return Finding(observation.value, message, {"value": observation.value, "limit": self.config.seconds})
