"""Lines through noisy points: Theil and Sen's slope with its interval, and the tests that a rise must pass to be called one.

The slope is the median of the slopes between all pairs of points (Theil 1950, Sen 1968), its interval follows from the variance of
Kendall's statistic (Sen 1968, equation 2.6): a few wild points (an evaluation, a save) change neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import TypeAlias

from msgspec import Struct

Point: TypeAlias = tuple[float, float]
"""Place (a step, or seconds) and value (bytes)."""

CONFIDENCE_Z = 1.96
BLOCKS = 5
"""A rise shows in every fifth of the points: a single jump, or what settles, does not."""
EVEN_SHARE = 0.4
"""Each fifth carries at least this share of its part of the rise: what slows down is warming up."""
NOISE_FACTOR = 8.0
"""The rise is this many times the noise around the line."""
LATER_SHARE = 0.65
"""The second half is at least this steep: the same again, for a bend that the fifths don't show."""
NOISE_POINTS = 10
HEIGHT_SHARE = 0.95
SCALE = 1.4826
"""From the median absolute deviation to a standard deviation of normal noise."""


class Trend(Struct, frozen=True):
    """A line: value = ``level`` + ``slope`` · (place - ``at``); the slope lies between ``low`` and ``high`` in 95 of 100 cases."""

    slope: float
    low: float
    high: float
    at: float
    level: float
    noise: float
    points: int
    span: float


def theil_sen(points: Sequence[Point]) -> Trend | None:
    """The line through points in rising order of place; None with fewer than three places."""
    slopes = sorted(
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for number, earlier in enumerate(points)
        for later in points[number + 1 :]
        if later[0] > earlier[0]
    )
    if len(slopes) < 3:
        return None
    count = len(points)
    slope = median(slopes)
    half = CONFIDENCE_Z * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    last = len(slopes) - 1
    low = slopes[max(0, min(last, math.floor((len(slopes) - half) / 2)))]
    high = slopes[max(0, min(last, math.ceil((len(slopes) + half) / 2)))]
    at = points[-1][0]
    level = median(value + slope * (at - place) for place, value in points)
    noise = SCALE * median(abs(value - level - slope * (place - at)) for place, value in points)
    return Trend(slope, low, high, at, level, noise, count, at - points[0][0])


def rises_evenly(points: Sequence[Point]) -> bool:
    """Whether each fifth of the points lies above the one before by about the same. Cheap: most memory fails it at once."""
    size = len(points) / BLOCKS
    levels = [median(value for _, value in points[round(number * size) : round((number + 1) * size)]) for number in range(BLOCKS)]
    rise = levels[-1] - levels[0]
    return rise > 0 and all(after - before >= EVEN_SHARE * rise / (BLOCKS - 1) for before, after in pairwise(levels))


def rising(points: Sequence[Point], least: float, before: Sequence[Point] = ()) -> Trend | None:
    """The line through the points when they rise evenly, by at least ``least`` and clearly above the noise; else None.

    They must also end higher than nearly all that was ``before`` them: what leaks reaches new heights, what swings comes back. A few
    points may lie on a line by chance: the noise is also what it was before.
    """
    if not rises_evenly(points):
        return None
    if before:
        heights = sorted(value for _, value in before)
        if median(value for _, value in points[-max(1, len(points) // BLOCKS) :]) < heights[int(HEIGHT_SHARE * (len(heights) - 1))]:
            return None
    trend = theil_sen(points)
    if trend is None or trend.low <= 0:
        return None
    if trend.slope * trend.span < max(least, NOISE_FACTOR * max(trend.noise, _noise(before))):
        return None
    later = theil_sen(points[len(points) // 2 :])
    return trend if later is not None and later.slope >= LATER_SHARE * trend.slope else None


def _noise(points: Sequence[Point]) -> float:
    if len(points) < NOISE_POINTS:
        return 0.0
    # From one point to the next, so that a slope among them is no noise; a difference has twice the variance of a point.
    steps = [later[1] - earlier[1] for earlier, later in pairwise(points)]
    middle = median(steps)
    return SCALE * median(abs(step - middle) for step in steps) / math.sqrt(2)
