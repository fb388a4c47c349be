"""The learning rate against the schedule that it has followed so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from trainbus.plugins.anomaly.observations import Observation
from trainbus.plugins.anomaly.rules.base import Count, Finding, Fraction, Memory, Pattern, Ratio, Rule, RuleConfig, Samples
from trainbus.plugins.anomaly.track import Track

NO_WARM_UP = 3
"""Values in a row that don't rise end the warm-up."""
SMALLEST = 0.01
"""Of the peak: smaller jumps are rounding."""
OFF_PACE = 8.0
"""Times the largest change a step so far: in a warm-up, only such a jump is one."""
NO_STEP = 10
"""Equal values in a row before a step down that a schedule of steps would take."""
STEPS_DOWN = (0.1, 0.2, 0.25, 0.3, 1 / 3, 0.5, 0.316227766)
"""The parts that such schedules leave."""
LEARNED = 0.9
"""A loss below this part of its first value has been learning: the learning rate can't have been 0."""

if TYPE_CHECKING:
    from trainbus.plugins.anomaly.memory import RunMemory


LEARNING_RATE: tuple[Pattern, ...] = ("learning_rate", "lr")


class LearningRateConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.lr_glitch]``.

    Args:
        jump: From one value to the next, as a part of the peak so far.
        factor: After the warm-up, upwards, also by this factor.
        zeros: So many exact zeros in a row, when no decay led there.
        floor: A decay may end in zeros from this part of the peak.
        restarts: The schedule has warm restarts: jumps from near the floor up to the peak are none of ours.
        loss: The series that tells whether anything is learned while the learning rate is said to be 0.
    """

    metrics: tuple[Pattern, ...] = LEARNING_RATE
    clear_after: Count = 3
    jump: Fraction = 0.25
    factor: Ratio = 2.0
    zeros: Samples = 5
    floor: Fraction = 0.05
    restarts: bool = False
    loss: str = "loss"


class Schedule(Memory, array_like=True):
    """The last value, the peak, and whether the first warm-up is over; the step and size of the last upward restart."""

    last: float = -1.0
    peak: float = 0.0
    steady: int = 0
    warm: bool = False
    values: int = 0
    pace: float = 0.0
    zeros: int = 0
    since: int = -1
    before_zero: float = 0.0
    restarted: int = -1
    cycle: int = 0
    step: int = -1
    stride: int = 0
    flat: int = 0


class LearningRateGlitch(Rule[LearningRateConfig, Schedule]):
    """``|value - last| > jump * peak`` or ``value > factor * last`` after the first warm-up, or ``zeros`` exact zeros that no decay led to.

    The warm-up lasts until the learning rate falls or stays for three values; a jump out of a steady stretch is no warm-up. The step is
    scaled to the usual distance of the log, so that a hole in a log is no jump. A restart (from near the floor to about the peak) is
    known when the configuration says so, or from the second on at the rhythm of the first. In a log whose learning rate is always 0
    while the loss falls, the 0 is a rounded number.
    """

    name: ClassVar[str] = "lr_glitch"
    kind: ClassVar[str] = "lr_glitch"
    group: ClassVar[str] = "schedule"
    advice: ClassVar[str] = "Check the scheduler: its state after a resume, its total number of steps, and who else sets the learning rate."
    memory = Schedule

    def reads(self) -> tuple[str, ...]:
        """What tells whether the other is real."""
        return (self.config.loss,)

    def judge(self, memory: Schedule, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Off the schedule?"""
        value, last = observation.value, memory.last
        if not 0.0 <= value < 1e9:
            return None
        found = self._zero(memory, observation, run) if value == 0.0 else None
        if value != 0.0:
            memory.zeros = 0
        stride = observation.step - memory.step
        if last >= 0.0 and memory.peak > 0.0 and found is None:
            found = self._jump(memory, observation, stride, run)
        memory.values += 1
        if last >= 0.0:
            if found is None and stride > 0:
                memory.pace = max(memory.pace, abs(value - last) / stride)
            memory.steady = 0 if value > last else memory.steady + 1
            memory.flat = memory.flat + 1 if value == last else 0
            memory.warm = memory.warm or value < last or memory.steady >= NO_WARM_UP
        if stride > 0:
            memory.stride = stride if not memory.stride else min(memory.stride, stride)
        memory.last, memory.step, memory.peak = value, observation.step, max(memory.peak, value)
        return found

    def _jump(self, memory: Schedule, observation: Observation, stride: int, run: RunMemory) -> Finding | None:
        value, last, config = observation.value, memory.last, self.config
        distance = abs(value - last)
        # Upwards is never a decay: there a factor counts too, which finds a jump late in the schedule.
        factor = value > config.factor * last and distance > SMALLEST * memory.peak
        if memory.warm:
            if not factor and distance <= config.jump * memory.peak:
                return None
        elif memory.values < NO_WARM_UP + 2 or not factor or distance <= OFF_PACE * memory.pace * max(stride, 1):
            return None  # a warm-up is even: only what is far off its pace is none
        if memory.stride and stride > memory.stride and not factor and distance * memory.stride <= config.jump * memory.peak * stride:
            return None
        if value > last and last <= config.floor * memory.peak * 2 and value <= 1.05 * memory.peak:
            cycle = observation.step - memory.restarted if memory.restarted >= 0 else observation.step
            known = config.restarts or run.restarts or (memory.restarted >= 0 and cycle >= 0.9 * memory.cycle)
            memory.restarted, memory.cycle = observation.step, cycle
            if known:
                return None
        times = f"{value / last:.3g} times" if last > 0 else "up from"
        message = f"{observation.metric} jumped from {last:.4g} to {value:.4g} at step {observation.step}, {times} the value before."
        evidence = {"value": value, "baseline": last, "peak": memory.peak, "jump": distance / memory.peak, "threshold": config.jump}
        stepped = memory.flat >= NO_STEP and any(abs(value / last - part) < 0.01 * part for part in STEPS_DOWN)
        return Finding(distance / memory.peak, message, evidence, "info" if stepped else None)

    def _zero(self, memory: Schedule, observation: Observation, run: RunMemory) -> Finding | None:
        config = self.config
        if not memory.zeros:
            memory.since, memory.before_zero = observation.step, max(memory.last, 0.0)
        memory.zeros += 1
        if memory.zeros < config.zeros:
            return None
        if memory.peak > 0.0:
            if memory.before_zero <= config.floor * memory.peak:
                return None  # a decay has ended
        else:
            loss = run.tracks.get(config.loss)
            if loss is None or loss.count < 2 * config.zeros or loss.signed or loss.median < LEARNED * loss.first:
                return None  # too early for a warm-up that logs rounded values, or the 0 is rounded
        message = f"{observation.metric} has been exactly 0 for {memory.zeros} values up to step {observation.step} while training goes on."
        evidence = {"value": 0.0, "zeros": memory.zeros, "baseline": memory.before_zero, "peak": memory.peak}
        return Finding(1.0, message, evidence, None, memory.since)
