"""How long something will take, with an 80 % interval, learned from how long it took so far."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Sequence

from msgspec import Struct

STUDENT_90 = (3.078, 1.886, 1.638, 1.533, 1.476, 1.440, 1.415, 1.397, 1.383, 1.372, 1.363, 1.356, 1.350, 1.345, 1.341, 1.337, 1.333, 1.330)
"""The 90 % quantile of Student's t for 1, 2, ... degrees of freedom: between plus and minus it lie 80 %."""
NORMAL_90 = 1.282

WINDOW = 2_000
"""Points of a run that are looked back on: old enough to know its pauses, young enough to follow a change."""
BLOCKS = 5
"""Pieces into which these are cut: long ones, because slow spells last (neighbouring steps are not independent)."""
MOST_CORRELATED = 0.8
"""A few parts can't tell more."""
LEAST_BLOCKS = 3


class Left(Struct, frozen=True, kw_only=True):
    """Seconds that are left: ``low`` and ``high`` bound them with a probability of 80 %; both None while too little is known."""

    seconds: float
    low: float | None = None
    high: float | None = None


def time_left(parts: Sequence[tuple[float, float]], amount: float) -> Left | None:
    """The time for ``amount`` more, from parts of (amount, seconds) that are done, in their order; None when nothing is.

    The expected time is the ratio of the sums. The interval is that of a prediction by a ratio estimator, where a part's variance grows
    with its amount: t * s * sqrt(L + L²/A), with s² = sum(a (r - m)²) / (k - 1) over the k parts' rates r (Cochran, Sampling Techniques,
    3rd ed., chapter 6; L is what is left, A what is done): the first term is what will vary, the second how badly the mean is known.
    Parts that follow their neighbours tell less than independent ones: by (1 + c) / (1 - c) in the variance, c their correlation.
    """
    known = [(done, seconds) for done, seconds in parts if done > 0 and seconds > 0]
    total = sum(done for done, _ in known)
    if not known:
        return None
    mean = sum(seconds for _, seconds in known) / total
    expected = mean * amount
    freedom = len(known) - 1
    if freedom < 1:
        return Left(seconds=expected)
    spread = math.sqrt(sum(done * (seconds / done - mean) ** 2 for done, seconds in known) / freedom)
    quantile = STUDENT_90[freedom - 1] if freedom <= len(STUDENT_90) else NORMAL_90
    correlation = _correlation([seconds / done - mean for done, seconds in known])
    half = quantile * spread * math.sqrt((amount + amount * amount / total) * (1 + correlation) / (1 - correlation))
    return Left(seconds=expected, low=max(0.0, expected - half), high=expected + half)


def _correlation(deviations: Sequence[float]) -> float:
    """Of neighbours; never negative."""
    square = sum(one * one for one in deviations)
    return min(MOST_CORRELATED, max(0.0, sum(a * b for a, b in itertools.pairwise(deviations)) / square)) if square else 0.0


class PaceStats(Struct, frozen=True, kw_only=True):
    """Points that are remembered, and steps a second over them; None while unknown."""

    points: int
    steps_per_second: float | None


class Pace:
    """The steps of one run and when they were done. Evaluations and saves between them count: they will come again."""

    def __init__(self) -> None:
        self._points: deque[tuple[int, float]] = deque(maxlen=WINDOW)

    def add(self, step: int, now: float) -> None:
        """A step is done at ``now``, seconds of work (without pauses). A step back begins anew."""
        if self._points and step <= self._points[-1][0]:
            self._points.clear()
        self._points.append((step, now))

    def forget(self) -> None:
        """What comes now is no pace: training waits. It begins anew with the next step."""
        self._points.clear()

    def left(self, total: int) -> Left | None:
        """The time until step ``total``; None while nothing is known."""
        if len(self._points) < 2:
            return None
        points = list(self._points)
        size = (len(points) - 1) / BLOCKS
        cuts = sorted({round(index * size) for index in range(BLOCKS + 1)}) if size >= 1 else list(range(len(points)))
        ends = [points[cut] for cut in cuts]
        parts = [(after[0] - before[0], after[1] - before[1]) for before, after in itertools.pairwise(ends)]
        left = time_left(parts, max(0, total - points[-1][0]))
        return left if left is None or len(parts) >= LEAST_BLOCKS else Left(seconds=left.seconds)

    def stats(self) -> PaceStats:
        """Figures of now."""
        seconds = self._points[-1][1] - self._points[0][1] if self._points else 0.0
        steps = self._points[-1][0] - self._points[0][0] if self._points else 0
        return PaceStats(points=len(self._points), steps_per_second=steps / seconds if seconds > 0 else None)


def words(left: Left) -> str:
    """``2 h 10 min (1 h 50 min to 2 h 40 min)``."""
    if left.low is None or left.high is None or _span(left.low) == _span(left.high):
        return _span(left.seconds)
    return f"{_span(left.seconds)} ({_span(left.low)} to {_span(left.high)})"


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours / 24:.1f} days"
