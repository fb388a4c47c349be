"""Virtual time: what happens when, in an order that the seed alone decides."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

START_NS = 1_750_000_000_000_000_000
"""Wall clock at the beginning of every simulation."""


class World:
    """A clock that jumps from one planned action to the next.

    Args:
        seed: Decides everything; the same seed gives the same history.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.time = 0.0
        self.actions = 0
        self._plan: list[tuple[float, int, Callable[[], None]]] = []

    def now(self) -> float:
        """Monotonic seconds since the beginning."""
        return self.time

    def wall(self) -> int:
        """Nanoseconds since the epoch."""
        return START_NS + int(self.time * 1e9)

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Plan an action."""
        self.actions += 1
        heapq.heappush(self._plan, (self.time + delay, self.actions, action))

    def run(self, until: float) -> None:
        """Let everything happen that is planned before ``until``."""
        while self._plan and self._plan[0][0] <= until:
            self.time, _, action = heapq.heappop(self._plan)
            action()
        self.time = until
