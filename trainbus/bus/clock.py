"""Time comes in as an argument, so that a simulation can turn it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the bus asks about time."""

    def now(self) -> float:
        """Monotonic seconds: for durations and deadlines."""

    def wall(self) -> int:
        """Nanoseconds since the epoch: for stamps that people read."""


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def wall(self) -> int:
        """Nanoseconds since the epoch."""
        return time.time_ns()
