"""A loss that jumps above what it was a moment ago."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta

from trainbus.bus.events import Severity
from trainbus.plugins.anomaly.observations import Observation
from trainbus.plugins.anomaly.rules.base import Count, Deviations, Finding, Memory, Ratio, Rule, RuleConfig, Samples
from trainbus.plugins.anomaly.track import NEAR, Track

if TYPE_CHECKING:
    from trainbus.plugins.anomaly.memory import RunMemory


class LossSpikeConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.loss_spike]``.

    Args:
        threshold: The rise above the level before it, as a part of that level.
        deviations: It must also be so many robust standard deviations above that level.
        single: In a log of every step, one value alone is a warning only when it rises by this much; less is a note.
        persist: In a log of every step, so many high values out of ``within`` are a warning.
        within: See there.
        min_samples: So many values are needed before the rule says anything.
        noise_floor: The standard deviation counts as at least this part of the level.
    """

    clear_after: Count = 3
    threshold: Ratio = 0.25
    deviations: Deviations = 6.0
    swings: Ratio = 1.5
    single: Ratio = 1.0
    persist: Samples = 3
    within: Samples = 5
    min_samples: Samples = 8
    noise_floor: Annotated[float, Meta(ge=0, le=1)] = 0.01


FORGET = 0.997
"""How fast a swing is forgotten, a value: half of it in 230."""


class Spike(Memory, array_like=True):
    """The level before the spike that is going on, and which of the last values were high (a bit each)."""

    level: float = 0.0
    noise: float = 0.0
    bar: float = 0.0
    swing: float = 0.0
    rest: int = 0
    since: int = -1
    high: int = 0
    seen: int = 0


class LossSpike(Rule[LossSpikeConfig, Spike]):
    """``value > (1 + threshold) * level`` and ``value - level > deviations * noise``.

    ``level`` is the median of the nine values before the spike, ``noise`` the robust scatter of the differences before it
    (`trainbus.plugins.anomaly.track`). While the spike lasts, both stay what they were before it.

    In a log of every step a single high value is usually one odd batch, so it is a note (severity info) unless it is more than
    ``1 + single`` times the level; ``persist`` high values within ``within`` are a warning. Where several steps lie between
    two logged values, a single one stands for all of them (or is their mean), so it is a warning at once.
    """

    name: ClassVar[str] = "loss_spike"
    kind: ClassVar[str] = "loss_spike"
    advice: ClassVar[str] = (
        "Look at the batch and the learning rate of this step; if the loss does not come back, resume from the checkpoint before it."
    )
    memory = Spike

    def judge(self, memory: Spike, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Too far above the level?"""
        value = observation.value
        if not isfinite(value) or value == 0.0 or track.signed or value < 0:
            return None
        config = self.config
        if memory.since >= 0:
            return self._follow(memory, observation, track.stride)
        if track.count < config.min_samples:
            return None
        level = track.near
        if memory.rest:
            memory.rest -= 1
        else:
            memory.swing = max(memory.swing * FORGET, level / value - 1)
        if value <= (1 + config.threshold) * level:
            return None
        noise = max(track.noise, config.noise_floor * level)
        bar = max((1 + max(config.threshold, config.swings * memory.swing)) * level, level + config.deviations * noise)
        if value <= bar:
            return None
        memory.level, memory.noise, memory.since, memory.bar = level, noise, observation.step, bar
        memory.high, memory.seen = 0, 0
        return self._follow(memory, observation, track.stride)

    def _follow(self, memory: Spike, observation: Observation, stride: int) -> Finding | None:
        config, value, level = self.config, observation.value, memory.level
        # Half of the threshold keeps a spike going: it ends when the loss is back, not when it dips once.
        high = value > (memory.bar if memory.seen == 0 else (memory.bar + level) / 2)
        memory.high = ((memory.high << 1) | high) & ((1 << config.within) - 1)
        memory.seen += 1
        if not memory.high & ((1 << config.clear_after) - 1) or memory.seen > 1_000:
            memory.since, memory.rest = -1, NEAR
            return None
        if not high:
            return None
        rise = value / level - 1
        lasting = memory.high.bit_count() >= config.persist
        severity: Severity = config.severity if lasting or stride > 1 or rise > config.single else "info"
        message = f"{observation.metric} {value:.4g} at step {observation.step} is {rise:.0%} above {level:.4g}, its level before"
        message += f" step {memory.since}." if memory.seen > 1 else "."
        evidence = {
            "value": value, "baseline": level, "noise": memory.noise, "deviations": (value - level) / memory.noise,
            "threshold": config.threshold, "stride": stride,
        }  # fmt: skip
        return Finding(rise, message, evidence, severity, memory.since)
