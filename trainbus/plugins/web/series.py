"""One metric of one run as two columns, in memory that doesn't grow with the run's length."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from typing import Any

import numpy as np
from msgspec import Struct
from tsdownsample import MinMaxDownsampler

WINDOWS = 16
"""Down-sampled windows that a series remembers: the zoom levels of the pages that are open."""

MAX_GAPS = 500
"""Separate stretches of NaN or infinity that are kept for a series; a later one then only extends the last."""

_DOWNSAMPLER: Any = MinMaxDownsampler()  # type: ignore[no-untyped-call]  # the package has no types


class Gap(Struct):
    """Neighbouring points without a finite value. ``kind``: nan, inf, -inf or mixed."""

    first: int
    last: int
    count: int
    kind: str


class Points(Struct, frozen=True):
    """A part of a series made ready for a screen. ``total`` is how many finite points it stands for."""

    steps: list[int]
    values: list[float]
    gaps: list[Gap]
    total: int


def _kind(value: float) -> str:
    if math.isnan(value):
        return "nan"
    return "inf" if value > 0 else "-inf"


class Series:
    """Points (step, value) in the order of steps; a second value of a step replaces the first.

    Args:
        limit: When so many points are held, they are thinned to half: the steps are cut into equal buckets, and the lowest and highest
            point of each stay, so that no extreme is ever lost.
    """

    def __init__(self, limit: int = 200_000) -> None:
        self.limit = limit
        self.seen = 0
        self.steps = array("q")
        self.values = array("d")
        self.gaps: list[Gap] = []
        self._windows: dict[tuple[int, int | None, int | None], Points] = {}

    def add(self, step: int, value: float) -> None:
        """Add a point. NaN and infinities become gaps; everything else takes its place by step."""
        self.seen += 1
        self._windows.clear()
        if not math.isfinite(value):
            self._add_gap(step, _kind(value))
        elif not self.steps or step > self.steps[-1]:
            self.steps.append(step)
            self.values.append(value)
            if len(self.steps) >= self.limit:
                self.thin(self.limit // 2)
        else:
            at = bisect_left(self.steps, step)
            if self.steps[at] == step:
                self.values[at] = value
            else:
                self.steps.insert(at, step)
                self.values.insert(at, value)

    def cut(self, step: int) -> None:
        """Forget the points from ``step`` on: a resumed run walks them again."""
        self._windows.clear()
        at = bisect_left(self.steps, step)
        del self.steps[at:], self.values[at:]
        self.gaps = [gap for gap in self.gaps if gap.first < step]
        if self.gaps:
            self.gaps[-1].last = min(self.gaps[-1].last, step - 1)

    @property
    def last(self) -> float | None:
        """The newest finite value."""
        return self.values[-1] if self.values else None

    def window(self, points: int, first: int | None = None, last: int | None = None) -> Points:
        """At most ``points`` points (at least 4) of the steps ``first`` to ``last``, inclusive.

        The window's lowest and highest value are always among them: it is cut into equal buckets of steps, and of each the
        lowest and highest point are given. It is remembered until a point comes, so that many pages cost as much as one.
        """
        key = (points, first, last)
        if key not in self._windows:
            if len(self._windows) >= WINDOWS:
                del self._windows[next(iter(self._windows))]
            self._windows[key] = self._sampled(points, first, last)
        return self._windows[key]

    def _sampled(self, points: int, first: int | None, last: int | None) -> Points:
        low = 0 if first is None else bisect_left(self.steps, first)
        high = len(self.steps) if last is None else bisect_right(self.steps, last)
        gaps = [gap for gap in self.gaps if (first is None or gap.last >= first) and (last is None or gap.first <= last)]
        if high <= low:
            return Points(steps=[], values=[], gaps=gaps, total=0)
        # Views without a copy; they must be gone before a point is added, or the arrays could not grow.
        x, y = np.frombuffer(self.steps, dtype=np.int64)[low:high], np.frombuffer(self.values, dtype=np.float64)[low:high]
        keep = _extremes(x, y, points)
        return Points(steps=x[keep].tolist(), values=y[keep].tolist(), gaps=gaps, total=high - low)

    def thin(self, points: int) -> None:
        """Keep about ``points`` points, the extremes among them."""
        self._windows.clear()
        x, y = np.array(self.steps, dtype=np.int64), np.array(self.values, dtype=np.float64)
        keep = _extremes(x, y, points)
        self.steps = array("q", x[keep].tobytes())
        self.values = array("d", y[keep].tobytes())

    def _add_gap(self, step: int, kind: str) -> None:
        at = bisect_left(self.steps, step)
        if at < len(self.steps) and self.steps[at] == step:
            del self.steps[at], self.values[at]
        previous = self.gaps[-1] if self.gaps else None
        touches = previous is not None and (not self.steps or self.steps[-1] < previous.first)
        if previous is not None and (touches or len(self.gaps) >= MAX_GAPS):
            previous.first, previous.last = min(previous.first, step), max(previous.last, step)
            previous.count += 1
            previous.kind = kind if kind == previous.kind else "mixed"
        else:
            self.gaps.append(Gap(first=step, last=step, count=1, kind=kind))


def _extremes(x: Any, y: Any, points: int) -> Any:
    """Indices of the lowest and highest point of each of ``points / 2`` equal buckets of ``x``, in order."""
    points = max(4, points - points % 2)
    if len(x) <= points:
        return slice(None)
    return _DOWNSAMPLER.downsample(x, y, n_out=points)
