"""A loss that has left the level that it had reached, and stays away."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, ClassVar

from trainbus.bus.events import Severity
from trainbus.plugins.anomaly.observations import Observation
from trainbus.plugins.anomaly.rules.base import Count, Deviations, Finding, Memory, Ratio, Rule, RuleConfig, Samples
from trainbus.plugins.anomaly.track import NEAR, Track

LEVEL = 32
"""Values whose median is the level."""
EVERY = 4
"""Values between two looks while all is well."""
BORDER_DROP = 0.12
"""A fall by this part of the level from one stretch of `NEAR` values to the next is an epoch border, when the level was flat before."""
BACK = 0.02
"""A level within this part of the lowest one is back."""
FORGET = 0.999
"""How fast a swing is forgotten, a value: half of it in 700."""
FLAT = 0.04
"""How much the level may move within the stretch before a border."""

if TYPE_CHECKING:
    from trainbus.plugins.anomaly.memory import RunMemory


class DivergenceConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.divergence]``.

    Args:
        threshold: The rise of the level above the lowest level so far, as a part of that.
        deviations: It must also be so many robust standard deviations of a single value.
        persist: For so many values in a row.
        min_samples: So many values are needed before the rule says anything,
        min_steps: and so many steps since the first one.
    """

    severity: Severity = "critical"
    threshold: Ratio = 0.07
    deviations: Deviations = 3.0
    swings: Ratio = 1.5
    persist: Samples = 10
    min_samples: Samples = 3
    min_steps: Count = 15


class Lowest(Memory, array_like=True):
    """The lowest level so far, the level before the last epoch border, and for how long the level has been above."""

    level: float = 0.0
    step: int = -1
    before: float = 0.0
    above: int = 0
    swing: float = 0.0
    top: float = 0.0
    since: int = -1


class Divergence(Rule[DivergenceConfig, Lowest]):
    """``median(last 32) > lowest + max(threshold * lowest, deviations * noise)`` for ``persist`` values in a row.

    ``lowest`` is the lowest median of 32 so far (fewer at the beginning). Medians over many values make this slow and sure: a spike
    that comes back is never one. In a multi-epoch fine-tuning the loss falls at each epoch border and rises slowly inside the epoch;
    after such a border (a sudden fall from a flat stretch) the level before it is the yardstick.
    """

    name: ClassVar[str] = "divergence"
    kind: ClassVar[str] = "divergence"
    of_data: ClassVar[bool] = True
    uses_noise: ClassVar[bool] = True
    advice: ClassVar[str] = "Stop and resume from a checkpoint before the rise, with a lower learning rate or a longer warm-up."
    memory = Lowest

    def judge(self, memory: Lowest, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Still above?"""
        if track.signed or track.count < self.config.min_samples or not isfinite(observation.value):
            return None
        if track.count > LEVEL and track.count % EVERY and not memory.above:
            return None  # a median of 32 moves slowly: while all is well, every fourth one is enough
        config, level = self.config, _median(track.values[-LEVEL:])
        if level <= 0:
            return None
        if memory.step < 0 or level < memory.level:
            memory.level, memory.step = level, observation.step
        if len(track.values) >= LEVEL:
            self._mark_border(memory, track.values[-LEVEL:])
        yardstick = max(memory.level, memory.before)
        rise = level - yardstick
        if level <= memory.level * (1 + BACK):
            # What it came back from is how far this series swings.
            memory.swing, memory.top = max(memory.swing * FORGET, memory.top), 0.0
        elif memory.level:
            memory.top = max(memory.top, level / memory.level - 1)
        bar = max(config.threshold * yardstick, config.deviations * track.noise, config.swings * memory.swing * yardstick)
        if rise <= bar or track.near <= yardstick or observation.step - track.since < config.min_steps:
            memory.above = 0
            return None
        if not memory.above:
            memory.since = observation.step
        memory.above += 1
        if memory.above < config.persist:
            return None
        message = (
            f"The level of {observation.metric} has been above {yardstick:.4g} for {memory.above} values up to step {observation.step};"
            f" it is {level:.4g}, {rise / yardstick:.0%} above."
        )
        evidence = {
            "value": level, "baseline": yardstick, "baseline_step": memory.step, "noise": track.noise,
            "window": min(len(track.values), LEVEL), "threshold": config.threshold,
        }  # fmt: skip
        return Finding(rise / yardstick, message, evidence, None, memory.since)

    @staticmethod
    def _mark_border(memory: Lowest, values: list[float]) -> None:
        """Notes the level before a sudden fall from a flat stretch."""
        if values[-1] >= values[0] * (1 - BORDER_DROP / 2):
            return  # nothing fell: most values end here
        late, first, second = _median(values[-NEAR:]), _median(values[:NEAR]), _median(values[NEAR : 2 * NEAR])
        if late < (1 - BORDER_DROP) * second and abs(first - second) < FLAT * first:
            memory.before = second


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
