"""A loss that jumps above what it was a moment ago."""

from __future__ import annotations

import math
from typing import ClassVar

from trainbus.plugins.anomaly.config import LossSpikeConfig
from trainbus.plugins.anomaly.observations import Observation
from trainbus.plugins.anomaly.rules.base import Baseline, Finding, Memory


class LossSpike:
    """``value > (1 + threshold) * mean(the window values before it)``.

    Non-finite values are neither judged nor remembered (`NonFinite` speaks of them), and so is an exact 0.0: transformers writes it
    in place of a NaN that it filtered. Silent until the window is full.
    """

    name: ClassVar[str] = "loss_spike"
    category: ClassVar[str] = "loss"
    advice: ClassVar[str] = (
        "Look at the batch and the learning rate of this step; if the loss does not come back, resume from the checkpoint before it."
    )
    lasting: ClassVar[bool] = True

    def __init__(self, config: LossSpikeConfig) -> None:
        self.config = config

    def remember(self) -> Memory | None:
        """An empty baseline."""
        return Baseline()

    def judge(self, memory: Memory | None, observation: Observation) -> Finding | None:
        """Too far above the mean?"""
        assert isinstance(memory, Baseline)
        config, value = self.config, observation.value
        if not math.isfinite(value) or value == 0.0:
            return None
        memory.signed = memory.signed or value < 0
        if memory.signed and config.skip_signed:
            memory.values.clear()
            return None
        finding = None
        if len(memory.values) >= config.window:
            finding = self._compare(sum(memory.values) / len(memory.values), observation)
        memory.take(value, breaks=finding is not None, window=config.window, adapt_after=config.adapt_after)
        return finding

    def _compare(self, mean: float, observation: Observation) -> Finding | None:
        value, window = observation.value, self.config.window
        if mean <= 0 or value <= (1 + self.config.threshold) * mean:
            return None
        rise = value / mean - 1
        message = (
            f"{observation.metric} {value:.4g} at step {observation.step} is {rise:.0%} above {mean:.4g}, the mean of the {window} before."
        )
        evidence = {"value": value, "baseline": mean, "window": window, "threshold": self.config.threshold}
        return Finding(score=rise, message=message, evidence=evidence)
