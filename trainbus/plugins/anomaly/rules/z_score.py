"""A value that lies far outside the scatter of those before it."""

from __future__ import annotations

import math
from typing import ClassVar

from trainbus.plugins.anomaly.config import ZScoreConfig
from trainbus.plugins.anomaly.observations import Observation
from trainbus.plugins.anomaly.rules.base import Baseline, Finding, Memory


class ZScore:
    """``z = (value - mean) / max(sigma, relative_floor * |mean|)`` over the values before it (sample standard deviation).

    The floor keeps a constant series, whose scatter is float noise, from alarming at the first changed digit.
    """

    name: ClassVar[str] = "z_score"
    category: ClassVar[str] = "outlier"
    advice: ClassVar[str] = "A single outlier is usually one odd batch; watch whether the next values come back."
    lasting: ClassVar[bool] = True

    def __init__(self, config: ZScoreConfig) -> None:
        self.config = config

    def remember(self) -> Memory | None:
        """An empty baseline."""
        return Baseline()

    def judge(self, memory: Memory | None, observation: Observation) -> Finding | None:
        """Too many standard deviations away?"""
        assert isinstance(memory, Baseline)
        config, value = self.config, observation.value
        if not math.isfinite(value):
            return None
        finding = None
        if len(memory.values) >= config.min_samples:
            finding = self._compare(memory.values, observation)
        memory.take(value, breaks=finding is not None, window=config.window, adapt_after=config.adapt_after)
        return finding

    def _compare(self, values: list[float], observation: Observation) -> Finding | None:
        config, count = self.config, len(values)
        mean = sum(values) / count
        distance, floor = observation.value - mean, config.relative_floor * abs(mean)
        wrong_side = (config.side == "above" and distance < 0) or (config.side == "below" and distance > 0)
        if wrong_side or abs(distance) <= config.threshold * floor:
            return None  # most values end here, before the scatter is worked out
        # dist is the root of the summed squares, in C: a microsecond or two.
        sigma = math.dist(values, [mean] * count) / math.sqrt(count - 1)
        spread = max(sigma, floor)
        if spread == 0.0 or abs(distance) <= config.threshold * spread:
            return None  # without any spread (every value was 0, or the floor is switched off) there is no scale to measure with
        z = distance / spread
        message = (
            f"{observation.metric} {observation.value:.4g} at step {observation.step} is {abs(z):.1f} standard deviations"
            f" {'above' if z > 0 else 'below'} {mean:.4g}, the mean of the {count} before."
        )
        evidence = {"value": observation.value, "baseline": mean, "sigma": sigma, "z": z, "window": count, "threshold": config.threshold}
        return Finding(score=abs(z), message=message, evidence=evidence)
