"""Fixed limits: a value above or below a number, so many times in a row. Preset `classic`, and for metrics of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from trainbus.bus.events import Severity
from trainbus.plugins.anomaly.observations import Observation
from trainbus.plugins.anomaly.rules.base import CLASSIC, Count, Finding, Pattern, Rule, RuleConfig, Samples, Streak
from trainbus.plugins.anomaly.rules.gradients import GRAD_NORM
from trainbus.plugins.anomaly.rules.schedule import LEARNING_RATE
from trainbus.plugins.anomaly.track import Track

if TYPE_CHECKING:
    from trainbus.plugins.anomaly.memory import RunMemory


class LimitConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What rules with a fixed limit can be told.

    Args:
        above: Values above it break the rule.
        below: So do values below it.
        persist: So many in a row.
        after_step: Earlier steps are not judged.
        magnitude: The size of the value counts, whatever its sign.
    """

    metrics: tuple[Pattern, ...] = ()
    clear_after: Count = 3
    above: float | None = None
    below: float | None = None
    persist: Samples = 1
    after_step: int = -1
    magnitude: bool = False


class Limit(Rule[LimitConfig, Streak]):
    """``value > above`` or ``value < below``, ``persist`` times in a row."""

    name: ClassVar[str] = "limit"
    kind: ClassVar[str] = "limit"
    group: ClassVar[str] = "limit"
    presets: ClassVar[frozenset[str]] = CLASSIC | {"default"}
    uses_track: ClassVar[bool] = False
    advice: ClassVar[str] = "A limit that you have set is passed."
    memory = Streak

    def judge(self, memory: Streak, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Beyond the limit?"""
        config = self.config
        value = abs(observation.value) if config.magnitude else observation.value
        high = config.above is not None and value > config.above
        low = config.below is not None and value < config.below
        if memory.extend((high or low) and observation.step > config.after_step, observation.step) < config.persist:
            return None
        limit = config.above if high else config.below
        message = f"{observation.metric} {value:.4g} at step {observation.step} is {'above' if high else 'below'} {limit:g}"
        message += f", the {memory.length}. time in a row." if config.persist > 1 else "."
        score = abs(value / limit) if limit and high else abs(limit / value) if limit and value else 1.0
        return Finding(score, message, {"value": observation.value, "limit": limit, "streak": memory.length}, None, memory.since)


class GradExplodingConfig(LimitConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.grad_above]``."""

    metrics: tuple[Pattern, ...] = GRAD_NORM
    severity: Severity = "critical"
    above: float | None = 100.0


class GradAbove(Limit):
    """Gradient norm above 100: exploding."""

    name: ClassVar[str] = "grad_above"
    kind: ClassVar[str] = "grad_spike"
    group: ClassVar[str] = "stability"
    presets: ClassVar[frozenset[str]] = CLASSIC
    advice: ClassVar[str] = "Clip gradients by norm, or lower the learning rate."


class GradFarAboveConfig(LimitConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.grad_far_above]``."""

    metrics: tuple[Pattern, ...] = GRAD_NORM
    severity: Severity = "critical"
    above: float | None = 1e3


class GradFarAbove(GradAbove):
    """Gradient norm above 1,000: the diagnostics' explosion."""

    name: ClassVar[str] = "grad_far_above"


class GradBelowConfig(LimitConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.grad_below]``."""

    metrics: tuple[Pattern, ...] = GRAD_NORM
    below: float | None = 1e-7


class GradBelow(Limit):
    """Gradient norm below 1e-7: vanishing."""

    name: ClassVar[str] = "grad_below"
    kind: ClassVar[str] = "grad_vanishing"
    group: ClassVar[str] = "learning"
    presets: ClassVar[frozenset[str]] = CLASSIC
    advice: ClassVar[str] = "Check that parameters require gradients and that fp16 does not underflow."


class RateHighConfig(LimitConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.lr_high]``."""

    metrics: tuple[Pattern, ...] = LEARNING_RATE
    above: float | None = 1e-2


class RateHigh(Limit):
    """Learning rate above 0.01."""

    name: ClassVar[str] = "lr_high"
    kind: ClassVar[str] = "lr_glitch"
    group: ClassVar[str] = "schedule"
    presets: ClassVar[frozenset[str]] = CLASSIC
    advice: ClassVar[str] = "That is far more than fine-tuning stands with Adam."


class RateLowConfig(LimitConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.lr_low]``."""

    metrics: tuple[Pattern, ...] = LEARNING_RATE
    severity: Severity = "info"
    below: float | None = 1e-6
    after_step: int = 1000


class RateLow(RateHigh):
    """Learning rate below 1e-6 after step 1,000."""

    name: ClassVar[str] = "lr_low"
    advice: ClassVar[str] = "Nothing is learned at this rate any more: the run could end."


class VramConfig(LimitConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.vram_unused]``."""

    metrics: tuple[Pattern, ...] = ("gpu*/memory_fraction",)
    severity: Severity = "info"
    below: float | None = 0.6
    persist: Samples = 15


class VramUnused(Limit):
    """Less than 60 % of a GPU's memory in use, 15 samples in a row."""

    name: ClassVar[str] = "vram_unused"
    kind: ClassVar[str] = "vram_unused"
    group: ClassVar[str] = "speed"
    presets: ClassVar[frozenset[str]] = CLASSIC
    advice: ClassVar[str] = "A larger batch or a longer context would fit."


class MemoryHighConfig(LimitConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.memory_high]``."""

    metrics: tuple[Pattern, ...] = ("host/memory_fraction", "gpu*/memory_fraction")
    above: float | None = 0.8


class MemoryHigh(Limit):
    """More than 80 % of a memory in use."""

    name: ClassVar[str] = "memory_high"
    kind: ClassVar[str] = "memory"
    group: ClassVar[str] = "memory"
    presets: ClassVar[frozenset[str]] = CLASSIC
    advice: ClassVar[str] = "Find what else runs on this machine; a smaller batch needs less."


class MemoryFullConfig(MemoryHighConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.memory_full]``."""

    severity: Severity = "critical"
    above: float | None = 0.9


class MemoryFull(MemoryHigh):
    """More than 90 % of a memory in use."""

    name: ClassVar[str] = "memory_full"


class DataConfig(LimitConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.data_large]``."""

    metrics: tuple[Pattern, ...] = ("data/max*", "data/*max", "data/min*", "data/*min")
    above: float | None = 1e4
    magnitude: bool = True


class DataLarge(Limit):
    """An input of size above 10,000."""

    name: ClassVar[str] = "data_large"
    kind: ClassVar[str] = "data_quality"
    group: ClassVar[str] = "data"
    presets: ClassVar[frozenset[str]] = CLASSIC
    advice: ClassVar[str] = "Scale the inputs, and look for broken rows."


class DataFlatConfig(LimitConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.data_flat]``."""

    metrics: tuple[Pattern, ...] = ("data/*variance",)
    below: float | None = 1e-6


class DataFlat(DataLarge):
    """Inputs whose variance is below 1e-6: all the same."""

    name: ClassVar[str] = "data_flat"
    advice: ClassVar[str] = "The inputs are all the same: look at the data loader."


class MaskedConfig(LimitConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.masked_ratio]``."""

    metrics: tuple[Pattern, ...] = ("masked_ratio", "*/masked_ratio")
    above: float | None = 0.85
    below: float | None = 0.30


class MaskedRatio(DataLarge):
    """Less than 30 % or more than 85 % of the label tokens are masked."""

    name: ClassVar[str] = "masked_ratio"
    advice: ClassVar[str] = "Check the chat template and the collator: too much or too little of the text counts for the loss."
