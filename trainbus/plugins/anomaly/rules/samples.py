"""Questions and answers: loss and correctness of the same sample only.

A sample's confidence is ``exp(-loss)``: the geometric mean of its tokens' probabilities, as its loss is their mean negative log-likelihood.
"""

from __future__ import annotations

from math import exp, isfinite
from typing import TYPE_CHECKING, ClassVar

from msgspec import field

from trainbus.bus.events import Severity
from trainbus.judging.statistics import calibration_error
from trainbus.plugins.anomaly.observations import SAMPLE_LOSS, Observation
from trainbus.plugins.anomaly.rules.base import BOTH, Count, Finding, Fraction, Memory, Nothing, Pattern, Ratio, Rule, RuleConfig, Samples
from trainbus.plugins.anomaly.track import Track

if TYPE_CHECKING:
    from trainbus.plugins.anomaly.memory import RunMemory


class SampleConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What the rules about samples share."""

    metrics: tuple[Pattern, ...] = (SAMPLE_LOSS,)
    severity: Severity = "info"
    clear_after: Count = 1


class SurprisedConfig(SampleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.correct_but_unsure]``: a correct answer whose loss is above ``above``."""

    above: Ratio = 1.5


class CorrectButUnsure(Rule[SurprisedConfig, Nothing]):
    """A correct answer with ``loss > above``: luck, or a wrong reference answer."""

    name: ClassVar[str] = "correct_but_unsure"
    kind: ClassVar[str] = "data_quality"
    group: ClassVar[str] = "data"
    presets: ClassVar[frozenset[str]] = BOTH
    uses_track: ClassVar[bool] = False
    advice: ClassVar[str] = "Look at this example: the reference answer may be wrong or oddly formatted."
    memory = Nothing

    def judge(self, memory: Nothing, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Right by chance?"""
        sample = observation.sample
        if sample is None or sample.correct is not True or not observation.value > self.config.above:
            return None
        message = f"Example {sample.example or '?'} was answered correctly with a loss of {observation.value:.3g}."
        return Finding(observation.value, message, {"value": observation.value, "example": sample.example, "threshold": self.config.above})


class OverconfidentConfig(SampleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.wrong_but_sure]``: a wrong answer whose loss is below ``below``."""

    below: Ratio = 0.3


class WrongButSure(Rule[OverconfidentConfig, Nothing]):
    """A wrong answer with ``loss < below``: the model is sure of it."""

    name: ClassVar[str] = "wrong_but_sure"
    kind: ClassVar[str] = "overconfidence"
    group: ClassVar[str] = "data"
    presets: ClassVar[frozenset[str]] = BOTH
    uses_track: ClassVar[bool] = False
    advice: ClassVar[str] = "Look at this example: the comparison may be too strict, or the model has learned something wrong by heart."
    memory = Nothing

    def judge(self, memory: Nothing, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Wrong and sure?"""
        sample = observation.sample
        if sample is None or sample.correct is not False or not observation.value < self.config.below:
            return None
        message = f"Example {sample.example or '?'} was answered wrongly with a loss of only {observation.value:.3g}."
        return Finding(
            1 - observation.value, message, {"value": observation.value, "example": sample.example, "threshold": self.config.below}
        )


class InvertedConfig(SampleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.inverted_loss]``.

    Args:
        factor: Mean loss of correct answers over that of wrong ones.
        window: Of the last samples.
        min_samples: At least so many.
    """

    severity: Severity = "warning"
    clear_after: Count = 10
    factor: Ratio = 1.5
    window: Samples = 50
    min_samples: Samples = 10


class Answers(Memory, array_like=True):
    """The last (value, correct) pairs."""

    values: list[float] = field(default_factory=list)
    correct: list[bool] = field(default_factory=list)
    last: float = -1.0

    def add(self, value: float, correct: bool, window: int) -> None:
        """Remember one more, and at most ``window``."""
        self.values.append(value)
        self.correct.append(correct)
        if len(self.values) > window:
            del self.values[0], self.correct[0]


class InvertedLoss(Rule[InvertedConfig, Answers]):
    """``mean loss of correct answers > factor * mean loss of wrong ones`` over the last ``window`` samples."""

    name: ClassVar[str] = "inverted_loss"
    kind: ClassVar[str] = "data_quality"
    group: ClassVar[str] = "data"
    presets: ClassVar[frozenset[str]] = BOTH
    uses_track: ClassVar[bool] = False
    advice: ClassVar[str] = "Correct answers cost more than wrong ones: check that loss and correctness belong to the same text."
    memory = Answers

    def judge(self, memory: Answers, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """The wrong way round?"""
        sample, config = observation.sample, self.config
        if sample is None or sample.correct is None or not isfinite(observation.value):
            return None
        memory.add(observation.value, sample.correct, config.window)
        right = [loss for loss, correct in zip(memory.values, memory.correct, strict=True) if correct]
        wrong = [loss for loss, correct in zip(memory.values, memory.correct, strict=True) if not correct]
        if len(memory.values) < config.min_samples or not right or not wrong:
            return None
        good, bad = sum(right) / len(right), sum(wrong) / len(wrong)
        if good <= config.factor * bad:
            return None
        message = f"Correct answers cost {good:.3g} on average, wrong ones {bad:.3g}, over {len(memory.values)} samples."
        return Finding(good / bad if bad > 0 else good, message, {"value": good, "baseline": bad, "samples": len(memory.values)})


class CalibrationConfig(SampleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.calibration]``.

    Args:
        above: The expected calibration error that is too large.
        rise: Or one that has risen by this part since the last full window,
        rise_above: if it is above this.
        window: Of the last samples.
        min_samples: At least so many.
    """

    severity: Severity = "warning"
    clear_after: Count = 20
    above: Fraction = 0.3
    rise: Ratio = 0.2
    rise_above: Fraction = 0.15
    window: Samples = 200
    min_samples: Samples = 50


class Calibration(Rule[CalibrationConfig, Answers]):
    """``ECE > above``, or ``ECE > (1 + rise) * ECE one window ago`` and ``> rise_above``; confidence is ``exp(-loss)``."""

    name: ClassVar[str] = "calibration"
    kind: ClassVar[str] = "calibration"
    group: ClassVar[str] = "data"
    presets: ClassVar[frozenset[str]] = BOTH
    advice: ClassVar[str] = "The model is surer than it is right: stop earlier, or calibrate its temperature afterwards."
    memory = Answers

    def judge(self, memory: Answers, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Surer than right?"""
        sample, config = observation.sample, self.config
        if sample is None or sample.correct is None or not isfinite(observation.value):
            return None
        memory.add(min(exp(-observation.value), 1.0), sample.correct, config.window)
        if len(memory.values) < config.min_samples:
            return None
        error = calibration_error(zip(memory.values, memory.correct, strict=True))
        before = memory.last
        if len(memory.values) == config.window and track.count % config.window == 0:
            memory.last = error
        risen = before >= 0 and error > (1 + config.rise) * before and error > config.rise_above
        if error <= config.above and not risen:
            return None
        message = f"The expected calibration error over {len(memory.values)} samples is {error:.2f}"
        message += f", {error / before - 1:.0%} more than {before:.2f} before." if risen and before > 0 else "."
        return Finding(error, message, {"value": error, "baseline": before if before >= 0 else None, "threshold": config.above})
