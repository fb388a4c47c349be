"""A clock that a test turns."""

from __future__ import annotations


class VirtualClock:
    """Stands still until it is told to go on: hours pass in no time, and always the same way.

    Args:
        now: Monotonic seconds at the start.
        wall: Nanoseconds since the epoch at the start.
    """

    def __init__(self, now: float = 0.0, wall: int = 1_750_000_000_000_000_000) -> None:
        self._now = now
        self._wall = wall

    def __repr__(self) -> str:
        return f"VirtualClock(now={self._now:.6f}, wall={self._wall})"

    def now(self) -> float:
        """Monotonic seconds."""
        return self._now

    def wall(self) -> int:
        """Nanoseconds since the epoch."""
        return self._wall

    def advance(self, seconds: float) -> None:
        """Let time pass, on both clocks.

        Raises:
            ValueError: Time does not run backwards; see `set_wall` for a wall clock that does.
        """
        if seconds < 0:
            raise ValueError(f"Time can't be advanced by {seconds} s; a wall clock that was set back is set_wall().")
        self._now += seconds
        self._wall += round(seconds * 1e9)

    def set_wall(self, wall: int) -> None:
        """Set the wall clock, forwards or back, as an administrator or NTP does; monotonic time does not notice."""
        self._wall = wall
