"""Training that slows down, one slow rank among many, training that stands still."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta

from trainbus.bus.events import Severity
from trainbus.plugins.anomaly.observations import SILENCE, Observation
from trainbus.plugins.anomaly.rules.base import BOTH, Count, Finding, Fraction, Memory, Pattern, Ratio, Rule, RuleConfig, Samples, Streak
from trainbus.plugins.anomaly.track import Track

if TYPE_CHECKING:
    from trainbus.plugins.anomaly.memory import RunMemory

Seconds = Annotated[float, Meta(ge=0, le=1e7)]


class ThroughputConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.throughput_loss]``.

    Args:
        below: Part of the baseline.
        alpha: Weight of a new value in the moving average that is judged.
        slow_alpha: The same for the baseline, which follows only while the average is not low.
        warm_up: First values that no baseline is made of: compilation, caches, the first data.
    """

    metrics: tuple[Pattern, ...] = ("tokens_per_second", "samples_per_second", "steps_per_second", "it_per_second", "train_*_per_second")
    below: Fraction = 0.6
    alpha: Fraction = 0.1
    slow_alpha: Fraction = 0.01
    warm_up: Samples = 20


class Speed(Memory, array_like=True):
    """A fast and a slow moving average."""

    count: int = 0
    fast: float = 0.0
    slow: float = 0.0


class ThroughputLoss(Rule[ThroughputConfig, Speed]):
    """``EMA(value) < below * baseline``; the baseline is a slow average of what came after the warm-up."""

    name: ClassVar[str] = "throughput_loss"
    kind: ClassVar[str] = "throughput_loss"
    group: ClassVar[str] = "speed"
    presets: ClassVar[frozenset[str]] = BOTH
    uses_track: ClassVar[bool] = False
    advice: ClassVar[str] = "Look at data loading, other processes on the machine, thermal limits and swap."
    memory = Speed

    def judge(self, memory: Speed, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Slow?"""
        config, value = self.config, observation.value
        if not isfinite(value) or value <= 0:
            return None
        memory.count += 1
        if memory.count <= config.warm_up:
            memory.fast = memory.slow = value
            return None
        memory.fast += config.alpha * (value - memory.fast)
        if memory.fast >= config.below * memory.slow:
            if value >= (1 + config.below) / 2 * memory.slow:  # a fall must not pull its own yardstick down
                # The first values after the warm-up weigh as in a plain mean, so that one slow first step is no baseline.
                memory.slow += max(config.slow_alpha, 1 / (memory.count - config.warm_up)) * (value - memory.slow)
            return None
        share = memory.fast / memory.slow
        message = f"{observation.metric} is at {memory.fast:.4g} ({share:.0%} of {memory.slow:.4g}) at step {observation.step}."
        return Finding(1 - share, message, {"value": memory.fast, "baseline": memory.slow, "threshold": config.below})


class StragglerConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.straggler]``.

    Args:
        factor: Times the median of the other ranks.
        persist: For so many values in a row.
    """

    metrics: tuple[Pattern, ...] = ("rank*/step_time", "rank*/step_seconds", "step_time", "step_seconds")
    factor: Ratio = 1.5
    persist: Samples = 5


class Straggler(Rule[StragglerConfig, Streak]):
    """The step time of one rank is ``factor`` times the median of all ranks, ``persist`` times in a row."""

    name: ClassVar[str] = "straggler"
    kind: ClassVar[str] = "straggler"
    group: ClassVar[str] = "speed"
    advice: ClassVar[str] = "All ranks wait for this one: look at its GPU (clock, temperature, other processes) and its disk."
    memory = Streak

    def judge(self, memory: Streak, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Slower than the others?"""
        if not run.ranked:
            return None
        own = observation.metric
        name = own.rpartition("/")[2]
        others = sorted(other.near for metric, other in run.tracks.items() if metric.rpartition("/")[2] == name and other.count)
        if len(others) < 2:
            return None
        median = others[(len(others) - 1) // 2]
        slow = observation.value > self.config.factor * median
        if memory.extend(slow, observation.step) < self.config.persist:
            return None
        ratio = observation.value / median if median else 0.0
        message = (
            f"{own} {observation.value:.4g} at step {observation.step} is {ratio:.1f} times the median {median:.4g} of {len(others)} ranks."
        )
        return Finding(ratio, message, {"value": observation.value, "baseline": median, "ranks": len(others)}, None, memory.since)


class StalledConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.stalled_run]``.

    Args:
        factor: Times the slowest of the last 32 steps.
        at_least: Seconds.
    """

    metrics: tuple[Pattern, ...] = (SILENCE,)
    severity: Severity = "critical"
    clear_after: Count = 1
    factor: Ratio = 5.0
    at_least: Seconds = 60.0


class Stalled(Memory, array_like=True):
    """The last step that ended a silence."""

    step: int = -1
    alerted: bool = False


class StalledRun(Rule[StalledConfig, Stalled]):
    """No step for ``factor`` times the slowest recent one, and for ``at_least`` seconds.

    Judged whenever any event of the run arrives, by the times stamped in the events: at a heartbeat while it is silent, or when the next
    step comes. Evaluations, saving and other phases of the trainer are known causes: the clock starts anew when they end.
    """

    name: ClassVar[str] = "stalled_run"
    kind: ClassVar[str] = "stalled_run"
    group: ClassVar[str] = "speed"
    advice: ClassVar[str] = "Look at the process's stack (py-spy dump), its data loader, NFS and NCCL; a hung collective never comes back."
    memory = Stalled

    def judge(self, memory: Stalled, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Silent for too long? The values before are the gaps between steps."""
        silence, config = observation.value, self.config
        if track.count < 5:
            return None
        limit = max(config.factor * track.ordered[-1], config.at_least)
        if silence <= limit:
            return None
        message = f"No step for {silence:.0f} s after step {run.last_step};"
        message += f" the slowest of the last {len(track.values)} took {track.ordered[-1]:.2g} s."
        return Finding(silence / limit, message, {"value": silence, "baseline": track.ordered[-1], "limit": limit})
