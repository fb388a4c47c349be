"""When more data are asked for: a decision without I/O."""

from __future__ import annotations

import math


class Refill:
    """Due when no more than ``below`` files wait, at most once in ``cooldown`` seconds, whatever came of the last time.

    Args:
        below: Files that may wait and more is asked for all the same.
        cooldown: Seconds from one beginning to the next.
    """

    def __init__(self, below: int, cooldown: float) -> None:
        self._below = below
        self._cooldown = cooldown
        self._last = -math.inf

    def due(self, waiting: int, now: float) -> bool:
        """Whether to generate now (monotonic seconds); if so, the next cooldown begins."""
        if waiting > self._below or now - self._last < self._cooldown:
            return False
        self._last = now
        return True
