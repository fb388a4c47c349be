"""Values that are no numbers, or that no real loss takes: NaN, infinity, exact zero, a constant."""

from __future__ import annotations

from math import inf, isfinite
from typing import TYPE_CHECKING, ClassVar

from trainbus.bus.events import Severity
from trainbus.plugins.anomaly.observations import Observation
from trainbus.plugins.anomaly.rules.base import BOTH, Count, Finding, Memory, Nothing, Pattern, Ratio, Rule, RuleConfig
from trainbus.plugins.anomaly.track import Track

if TYPE_CHECKING:
    from trainbus.plugins.anomaly.memory import RunMemory


class NonFiniteConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.non_finite]``: a NaN or an infinity."""

    metrics: tuple[Pattern, ...] = ("*loss", "*grad_norm")
    severity: Severity = "critical"


class NonFinite(Rule[NonFiniteConfig, Nothing]):
    """Fires at the very step whose value is NaN, inf or -inf."""

    name: ClassVar[str] = "non_finite"
    kind: ClassVar[str] = "nan"
    uses_track: ClassVar[bool] = False
    advice: ClassVar[str] = (
        "Stop the run and resume from the last checkpoint before this step with a lower learning rate or clipped gradients."
    )
    presets: ClassVar[frozenset[str]] = BOTH
    memory = Nothing

    def judge(self, memory: Nothing, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Not finite?"""
        value = observation.value
        if isfinite(value):
            return None
        message = f"{observation.metric} is {value} at step {observation.step}."
        return Finding(score=0.0, message=message, evidence={"value": value})


MANY = 20
"""Changes of which the smallest shows to how many digits a log is rounded."""
ROUNDED = 0.002
"""A log whose smallest change is more than this part of the value is rounded: equal neighbours are no wonder there."""
AGAIN = 8
"""Times as many repeats are needed then."""


class StuckConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.stuck_loss]``: the loss repeats one value to the last digit.

    Args:
        repeats: So many equal values in a row.
        floor: Smaller losses are left alone: a solved task rounds to the same digits.
        zeros: So many exact zeros in a row are enough, when the loss was far from 0 before.
    """

    repeats: Count = 25
    floor: Ratio = 0.05
    zeros: Count = 3


class Repeat(Memory, array_like=True):
    """The last value and how often it came in a row; the level before it; how many changes there have been, and the smallest."""

    value: float = 0.0
    times: int = 0
    before: float = 0.0
    changes: int = 0
    smallest: float = inf


class StuckLoss(Rule[StuckConfig, Repeat]):
    """The loss is exactly the same again and again, or exactly 0.0 after it was far from it.

    A real batch never gives the same loss twice to the last digit: the model is not updated and sees the same batch, the labels are all
    masked, or what is logged is not the loss. An exact 0.0 also stands where transformers has filtered a NaN.
    """

    name: ClassVar[str] = "stuck_loss"
    kind: ClassVar[str] = "plateau"
    group: ClassVar[str] = "learning"
    advice: ClassVar[str] = "Check that labels are not all masked, that the optimizer steps, and that the loss is the one that is logged."
    memory = Repeat

    def judge(self, memory: Repeat, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """The same again?"""
        value = observation.value
        if value != memory.value or not memory.times:
            memory.before = track.median if track.count else value
            if memory.times and isfinite(value):
                memory.changes += 1
                change = abs(value - memory.value)
                if change < memory.smallest:
                    memory.smallest = change
            memory.value, memory.times = value, 1
            return None
        memory.times += 1
        zero = value == 0.0 and memory.before > self.config.floor and memory.times >= self.config.zeros
        rounded = memory.changes >= MANY and memory.smallest > ROUNDED * abs(value)
        if not zero and (memory.times < self.config.repeats * (AGAIN if rounded else 1) or abs(value) < self.config.floor):
            return None
        message = f"{observation.metric} has been exactly {value:.6g} for {memory.times} values up to step {observation.step}."
        return Finding(float(memory.times), message, {"value": value, "repeats": memory.times, "baseline": memory.before})
