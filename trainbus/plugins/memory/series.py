"""The memory of one thing over the steps of a training (or over seconds), as far back as a trend needs it."""

from __future__ import annotations

from msgspec import Struct, field

from trainbus.plugins.memory.trends import Point, Trend, rising, theil_sen

RECENT = 96
"""Points kept one by one: three minutes of calm looks, ten seconds of fast ones."""
LONG = 96
"""Points kept thinned out, back to the beginning: what grows slowly shows only here."""
LONG_GAP = 10.0
"""Steps (or seconds) between thinned points at first: evenly spaced, although looks are not."""
GOES_ON = 0.4
"""A rise of the thinned points goes on in the recent ones at this share of its slope at least: stairs that have ended do not."""
WINDOWS = (10, 16, 32, 64, RECENT)
"""Ends of the recent points that are tried: a leak that has just begun shows in the shortest first."""
LEAST_RISE = 4 << 20
"""Bytes: less is the allocator's business."""
LEAST_SPAN = 10.0
"""Steps (or seconds): fewer may all lie within one batch of caches that fill."""


class Series(Struct, array_like=True):
    """Points in order of place; one for each place, the lowest, because buffers come and go within a step."""

    recent: list[Point] = field(default_factory=list)
    long: list[Point] = field(default_factory=list)
    gap: float = LONG_GAP

    def add(self, place: float, value: float) -> bool:
        """Add a point; True when its place is a new one."""
        if self.recent and place <= self.recent[-1][0]:
            if place == self.recent[-1][0] and value < self.recent[-1][1]:
                self.recent[-1] = (place, value)
            return False
        self.recent.append((place, value))
        if len(self.recent) > RECENT:
            self._age(self.recent.pop(0))
        return True

    def trend(self) -> Trend | None:
        """The rise of this series now, from as many points as show it; None when it does not rise."""
        found = None
        for size in WINDOWS:
            if len(self.recent) < size:
                break
            points = self.recent[-size:]
            if points[-1][0] - points[0][0] >= LEAST_SPAN:
                found = rising(points, LEAST_RISE, self.recent[:-size] or self.long) or found
        # What is long ago says how it was before the last jump: it counts only for what is too slow to show in the recent points.
        if found is None and len(self.long) >= LONG // 2:
            now = self.line(RECENT)
            found = rising(self.long, LEAST_RISE)
            if found is not None and (now is None or not found.slope * GOES_ON <= now.slope <= found.slope / GOES_ON):
                return None
        return found

    def line(self, size: int) -> Trend | None:
        """The line through the last points, rise or not."""
        return theil_sen(self.recent[-size:])

    def _age(self, point: Point) -> None:
        if self.long and point[0] - self.long[-1][0] < self.gap:
            return
        self.long.append(point)
        if len(self.long) > LONG:
            self.long = self.long[::2]
            self.gap *= 2
