"""A loss that jumps above what it was a moment ago."""

from __future__ import annotations

from itertools import pairwise
from math import exp, isfinite
from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta, field

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
        persist_sparse: The same where several steps lie between two logged values.
        min_samples: So many values are needed before the rule says anything.
        min_steps: And so many steps since the first one: some runs first jump to several times their first loss and come back.
        noise_floor: The standard deviation counts as at least this part of the level.
    """

    clear_after: Count = 3
    threshold: Ratio = 0.25
    deviations: Deviations = 5.5
    lasting_threshold: Ratio = 0.15
    lasting_deviations: Deviations = 3.5
    swings: Ratio = 1.7
    single: Ratio = 1.0
    persist: Samples = 3
    persist_sparse: Samples = 2
    within: Samples = 5
    min_samples: Samples = 8
    min_steps: Count = 15
    noise_floor: Annotated[float, Meta(ge=0, le=1)] = 0.01


FORGET = 0.997
"""How fast a swing is forgotten, a value: half of it in 230."""
NOTHING = 0.01
"""A rise by less than this part of the first loss is none that anybody minds: 0.002 after 0.0002, when it began at 2."""
MAX_EXPONENT = 20.0
"""So that a series that is all noise can't overflow."""
RHYTHM = 4
"""So many rises at equal distances (within `EVEN`) are a habit of the series: batches grouped by length make a saw-tooth."""
EVEN = 0.15
OFTEN = 8
"""So many rises within `SOON` values are a habit, too: every tenth batch comes from a harder source."""
SOON = 200
LONGEST = 200
"""Values after which a spike that did not come back is left to `divergence`, and the new level counts."""


class Spike(Memory, array_like=True):
    """The level before the spike that is going on, and which of the last values were high (a bit each)."""

    level: float = 0.0
    noise: float = 0.0
    bar: float = 0.0
    low: float = 0.0
    below: int = 0
    swing: float = 0.0
    rest: int = 0
    starts: list[int] = field(default_factory=list)
    since: int = -1
    high: int = 0
    seen: int = 0


class LossSpike(Rule[LossSpikeConfig, Spike]):
    """``value > (1 + threshold) * level`` and ``value > level * exp(deviations * noise / level)``.

    ``level`` is the median of the nine values before the spike, ``noise`` the robust scatter of the differences before it
    (`trainbus.plugins.anomaly.track`). While the spike lasts, both stay what they were before it. Losses scatter by factors, so the
    second bar is an exponential: for little noise it is ``level + deviations * noise``. A series that swings down by as much, or that
    rises often or at even distances, does so by habit.

    In a log of every step a single high value is usually one odd batch, so it is a note (severity info) unless it is more than
    ``1 + single`` times the level; ``persist`` high values within ``within`` are a warning. Where several steps lie between
    two logged values, a single one stands for all of them (or is their mean), so it is a warning at once.
    """

    name: ClassVar[str] = "loss_spike"
    kind: ClassVar[str] = "loss_spike"
    of_data: ClassVar[bool] = True
    uses_noise: ClassVar[bool] = True
    advice: ClassVar[str] = (
        "Look at the batch and the learning rate of this step; if the loss does not come back, resume from the checkpoint before it."
    )
    memory = Spike

    def judge(self, memory: Spike, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Too far above the level?"""
        value = observation.value
        if not isfinite(value) or value <= 0.0 or track.signed or track.count < self.config.min_samples:
            return None
        if observation.step - track.since < self.config.min_steps:
            return None
        if memory.since < 0 and not self._begins(memory, observation, track):
            return None
        return self._follow(memory, observation, track.stride, run)

    def _begins(self, memory: Spike, observation: Observation, track: Track) -> bool:
        """High enough to look closer? Then the level and the bars are fixed until the spike is over."""
        config, value = self.config, observation.value
        level = track.near
        if memory.rest:
            memory.rest -= 1
        else:
            memory.swing = max(memory.swing * FORGET, level / value - 1)
        last = sorted(track.values[-3:])[1]
        if value <= (1 + config.lasting_threshold) * last:
            return False  # most values end here
        noise = max(track.noise, config.noise_floor * level, track.quantum / 2)
        level = min(level, last + 2 * noise)  # a steep fall without noise: the median of nine lags behind
        if value - level <= NOTHING * track.first:
            return False
        usual = config.swings * memory.swing
        relative = noise / level
        low = level * max(1 + config.lasting_threshold, 1 + usual, exp(min(config.lasting_deviations * relative, MAX_EXPONENT)))
        if value <= low:
            return False
        memory.level, memory.noise, memory.low = level, noise, low
        memory.bar = level * max(1 + config.threshold, 1 + usual, exp(min(config.deviations * relative, MAX_EXPONENT)))
        memory.since, memory.high, memory.seen = observation.step, 0, 0
        memory.starts = [*memory.starts, track.count][-OFTEN:]
        return True

    def _follow(self, memory: Spike, observation: Observation, stride: int, run: RunMemory) -> Finding | None:
        config, value, level = self.config, observation.value, memory.level
        memory.high = ((memory.high << 1) | (value > memory.low)) & ((1 << config.within) - 1)
        # Half of the way keeps a spike going: it ends when the loss is back, not when it dips once.
        memory.below = 0 if value > (level + memory.low) / 2 else memory.below + 1
        memory.seen += 1
        if memory.below >= config.clear_after or memory.seen > LONGEST:
            memory.since, memory.rest = -1, NEAR
            return None
        rise = value / level - 1
        lasting = memory.high.bit_count() >= (config.persist if stride == 1 else config.persist_sparse)
        if value <= (memory.low if lasting else memory.bar):
            return None
        warns = lasting or stride > 1 or rise > config.single
        severity: Severity = config.severity if warns and not run.odd and not _is_habit(memory.starts) else "info"
        message = f"{observation.metric} {value:.4g} at step {observation.step} is {rise:.0%} above {level:.4g}, its level before"
        message += f" step {memory.since}." if memory.seen > 1 else "."
        evidence = {
            "value": value, "baseline": level, "noise": memory.noise, "deviations": (value - level) / memory.noise,
            "threshold": config.lasting_threshold if lasting else config.threshold, "stride": stride,
        }  # fmt: skip
        return Finding(rise, message, evidence, severity, memory.since)


def _is_habit(starts: list[int]) -> bool:
    """Whether rises that begin at these values come too often or too evenly to be incidents."""
    if len(starts) < RHYTHM:
        return False
    if len(starts) == OFTEN and starts[-1] - starts[0] < SOON:
        return True
    gaps = [late - early for early, late in pairwise(starts[-RHYTHM:])]
    return max(gaps) <= (1 + EVEN) * min(gaps)
