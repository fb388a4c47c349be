"""The best model so far."""

from __future__ import annotations

import math
from typing import ClassVar

from trainbus.plugins.anomaly.config import NewBestConfig
from trainbus.plugins.anomaly.observations import Observation
from trainbus.plugins.anomaly.rules.base import Best, Finding, Memory


class NewBest:
    """Better than the last announced best by more than ``min_improvement`` of its size.

    Compared with the last one *announced*, so that many small improvements add up to news. NaN, infinities and an exact 0.0 are never
    best: they are what broken evaluations report.
    """

    name: ClassVar[str] = "new_best"
    category: ClassVar[str] = "best"
    advice: ClassVar[str] = "The checkpoint of this step is the one to keep."
    lasting: ClassVar[bool] = False

    def __init__(self, config: NewBestConfig) -> None:
        self.config = config

    def remember(self) -> Memory | None:
        """No best yet."""
        return Best()

    def judge(self, memory: Memory | None, observation: Observation) -> Finding | None:
        """Better by enough?"""
        assert isinstance(memory, Best)
        value, before = observation.value, memory.value
        if not math.isfinite(value) or value == 0.0:
            return None
        gain = 0.0
        if before is not None:
            gain = (before - value if self.config.direction == "min" else value - before) / abs(before)
            if gain <= self.config.min_improvement:
                return None
        evidence = {"value": value, "baseline": before, "threshold": self.config.min_improvement}
        message = f"{observation.metric} {value:.4g} at step {observation.step} is the "
        message += "first best." if before is None else f"new best, {gain:.1%} better than {before:.4g} at step {memory.step}."
        memory.value, memory.step = value, observation.step
        return Finding(score=gain, message=message, evidence=evidence)
