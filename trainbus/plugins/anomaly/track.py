"""What is known of one series: a short window of its last values, with robust figures of level and noise.

Constant memory, about two microseconds a value. Every figure is of the values *before* the one under test: the detector lets all
rules judge a value and only then `Track.take`\\ s it. Non-finite values are never taken, so that they can't spoil a baseline.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from math import isfinite

from msgspec import Struct, field

WINDOW = 64
"""Values in the window: long enough that a median ignores fifteen outliers, short enough to follow a falling loss."""
NEAR = 9
"""Values in the short level: follows a falling loss, and a median of nine ignores four outliers."""
GAUSS = 1.4826
"""Median absolute deviation to standard deviation, for a normal distribution."""
ROOT_HALF = 0.70711


class Track(Struct, array_like=True):
    """The last `WINDOW` finite values of a series.

    Args:
        values: In order of arrival.
        ordered: The same, sorted.
        changes: Sizes of the differences between neighbours, in order of arrival.
        changes_ordered: The same, sorted.
        count: Finite values since the beginning or the last resume.
        first: The first of these.
        step: Of the last value.
        stride: Steps between the last two values: 1 when every step is logged.
        signed: A value was negative: relative measures mean nothing.
        since: Step of the first value.
    """

    values: list[float] = field(default_factory=list)
    ordered: list[float] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    changes_ordered: list[float] = field(default_factory=list)
    count: int = 0
    first: float = 0.0
    step: int = -1
    stride: int = 1
    signed: bool = False
    since: int = -1

    def take(self, value: float, step: int, *, changes: bool = True) -> None:
        """Remember a value that has been judged.

        Args:
            value: The value.
            step: Its step.
            changes: Somebody asks for `noise`; without, half of the work is saved.
        """
        if not isfinite(value):
            return
        values, ordered = self.values, self.ordered
        if values:
            if changes:
                sizes, sizes_ordered = self.changes, self.changes_ordered
                change = abs(value - values[-1])
                sizes.append(change)
                insort(sizes_ordered, change)
                if len(sizes) > WINDOW:
                    del sizes_ordered[bisect_left(sizes_ordered, sizes.pop(0))]
            if step > self.step:
                self.stride = step - self.step
        else:
            self.first, self.since = value, step
        values.append(value)
        oldest = values.pop(0) if len(values) > WINDOW else None
        if oldest != value:  # else one equal value goes for the other: a constant learning rate
            insort(ordered, value)
            if oldest is not None:
                del ordered[bisect_left(ordered, oldest)]
        self.count += 1
        self.step = step
        if value < 0:
            self.signed = True

    @property
    def median(self) -> float:
        """Of the whole window; it must not be empty."""
        return self.ordered[len(self.ordered) // 2]

    @property
    def near(self) -> float:
        """Median of the last `NEAR` values: the level that a sudden rise is measured against."""
        last = sorted(self.values[-NEAR:])
        return last[len(last) // 2]

    @property
    def noise(self) -> float:
        """Robust standard deviation of a value about its trend: ``1.4826 * median(|x[t] - x[t-1]|) / sqrt(2)``; 0.0 when unknown.

        Differences leave a slow trend out. A band that alternates from value to value counts as noise.
        """
        changes = self.changes_ordered
        return GAUSS * ROOT_HALF * changes[len(changes) // 2] if changes else 0.0

    @property
    def quantum(self) -> float:
        """The smallest change between neighbours: in a log of rounded numbers the last digit, else next to nothing. 0.0 when unknown."""
        changes = self.changes_ordered
        place = bisect_right(changes, 0.0)
        return changes[place] if place < len(changes) else 0.0

    @property
    def spread(self) -> float:
        """Robust standard deviation of the window about its median, trend included: ``IQR / 1.349``."""
        ordered = self.ordered
        count = len(ordered)
        return (ordered[count * 3 // 4] - ordered[count // 4]) / 1.349 if count > 3 else 0.0
