"""NaN and infinity: the weights are ruined, or will be with the next step."""

from __future__ import annotations

import math
from typing import ClassVar

from trainbus.plugins.anomaly.config import NonFiniteConfig
from trainbus.plugins.anomaly.observations import Observation
from trainbus.plugins.anomaly.rules.base import Finding, Memory


class NonFinite:
    """Fires at the very step whose value is NaN, inf or -inf."""

    name: ClassVar[str] = "non_finite"
    category: ClassVar[str] = "numerics"
    advice: ClassVar[str] = (
        "Stop the run and resume from the last checkpoint before this step with a lower learning rate or clipped gradients."
    )
    lasting: ClassVar[bool] = True

    def __init__(self, config: NonFiniteConfig) -> None:
        self.config = config

    def remember(self) -> Memory | None:
        """Needs no memory."""
        return None

    def judge(self, memory: Memory | None, observation: Observation) -> Finding | None:
        """Not finite?"""
        value = observation.value
        if math.isfinite(value):
            return None
        message = f"{observation.metric} is {value} at step {observation.step}."
        return Finding(score=0.0, message=message, evidence={"value": value})
