"""For any series: single outliers, and a level that has moved for good."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, ClassVar, Literal

from trainbus.bus.events import Severity
from trainbus.plugins.anomaly.observations import Observation
from trainbus.plugins.anomaly.rules.base import Count, Deviations, Finding, Fraction, Memory, Nothing, Pattern, Rule, RuleConfig, Samples
from trainbus.plugins.anomaly.track import Track

if TYPE_CHECKING:
    from trainbus.plugins.anomaly.memory import RunMemory


class OutlierConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.outlier]``: for metrics of your own.

    Args:
        deviations: Robust standard deviations from the median of the window.
        side: "above" for series where only high is bad.
        min_samples: So many values are needed before the rule says anything.
        floor: The standard deviation counts as at least this part of the median, so that a constant series does not alarm at float noise.
    """

    metrics: tuple[Pattern, ...] = ()
    clear_after: Count = 3
    deviations: Deviations = 8.0
    side: Literal["above", "below", "both"] = "both"
    min_samples: Samples = 20
    floor: Fraction = 0.01


class Outlier(Rule[OutlierConfig, Nothing]):
    """``|value - median| > deviations * max(1.4826-scaled IQR spread, noise, floor * |median|)``: the robust z-score.

    Source: Iglewicz and Hoaglin, "How to Detect and Handle Outliers" (1993), with quartiles in place of the MAD.
    """

    name: ClassVar[str] = "outlier"
    kind: ClassVar[str] = "outlier"
    group: ClassVar[str] = "outlier"
    uses_noise: ClassVar[bool] = True
    advice: ClassVar[str] = "A single outlier is usually one odd batch; watch whether the next values come back."
    memory = Nothing

    def judge(self, memory: Nothing, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Far out?"""
        config, value = self.config, observation.value
        if track.count < config.min_samples or not isfinite(value):
            return None
        median = track.median
        distance = value - median
        if (config.side == "above" and distance < 0) or (config.side == "below" and distance > 0):
            return None
        spread = max(track.spread, track.noise, config.floor * abs(median))
        if spread == 0.0 or abs(distance) <= config.deviations * spread:
            return None
        z = distance / spread
        message = f"{observation.metric} {value:.4g} at step {observation.step} is {abs(z):.1f} robust standard deviations"
        message += f" {'above' if z > 0 else 'below'} {median:.4g}."
        return Finding(abs(z), message, {"value": value, "baseline": median, "spread": spread, "z": z, "window": len(track.values)})


class LevelShiftConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.level_shift]``.

    Args:
        slack: Standard deviations that count as no shift.
        limit: The sum of what is beyond the slack, in standard deviations.
        forget: How fast the level follows, a value.
        min_samples: So many values are needed before the rule says anything.
    """

    severity: Severity = "info"
    clear_after: Count = 30
    slack: Deviations = 1.0
    limit: Deviations = 20.0
    forget: Fraction = 0.02
    min_samples: Samples = 48


class Sums(Memory, array_like=True):
    """Page's cumulative sum and the level that it is against."""

    level: float = 0.0
    sum: float = 0.0
    since: int = -1
    shifted: bool = False


class LevelShift(Rule[LevelShiftConfig, Sums]):
    """Page's one-sided CUSUM: ``S = max(0, S + z - slack)`` with ``z = (value - level) / noise`` cut at ±3; a shift when ``S > limit``.

    The level follows slowly and only downwards at full speed, so that a falling loss is no shift. Cut values make it blind to single
    outliers. Source: Page, "Continuous Inspection Schemes", Biometrika 41 (1954).
    """

    name: ClassVar[str] = "level_shift"
    kind: ClassVar[str] = "level_shift"
    of_data: ClassVar[bool] = True
    uses_noise: ClassVar[bool] = True
    advice: ClassVar[str] = "Look what changed here: data file, learning rate, sequence length, a resume."
    memory = Sums

    def judge(self, memory: Sums, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Up for good?"""
        config, value = self.config, observation.value
        if not isfinite(value) or track.signed:
            return None
        if track.count < config.min_samples:
            memory.level = track.median if track.count else value
            return None
        noise = max(track.noise, 0.005 * abs(memory.level))
        if noise == 0.0:
            return None
        z = (value - memory.level) / noise
        z = 3.0 if z > 3.0 else -3.0 if z < -3.0 else z
        memory.level += noise * z * (config.forget if z > 0 else 5 * config.forget)
        if memory.sum <= 0.0:
            memory.since = observation.step
        memory.sum = min(max(0.0, memory.sum + z - config.slack), 2 * config.limit)
        if memory.sum <= config.limit:
            return None
        message = f"The level of {observation.metric} has moved up to about {track.near:.4g} since step {memory.since}."
        return Finding(
            memory.sum, message, {"value": track.near, "baseline": memory.level, "noise": noise, "sum": memory.sum}, None, memory.since
        )
