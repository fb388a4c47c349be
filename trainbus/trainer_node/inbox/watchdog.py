"""Tells a hanging training from a slow one, by its own pace."""

from __future__ import annotations

from collections import deque

FACTOR = 20.0
"""A step may take so many times the slowest recent one."""
RECENT_STEPS = 50


class Watchdog:
    """Measures the time between steps. Phases in which no steps come (loading, evaluating, saving, paused) are no hang.

    Args:
        floor: Seconds without a step that are never a hang; 0 turns the watchdog off.
    """

    def __init__(self, floor: float) -> None:
        self._floor = floor
        self._gaps: deque[float] = deque(maxlen=RECENT_STEPS)
        self._phase = ""
        self._since: float | None = None

    def phase(self, name: str, now: float) -> None:
        """A phase begins; only in ``train`` steps are expected."""
        self._phase = name
        self._since = now

    def step(self, now: float) -> None:
        """A step is done."""
        if self._since is not None:
            self._gaps.append(now - self._since)
        self._since = now

    @property
    def limit(self) -> float:
        """Seconds without a step that are a hang."""
        return max(self._floor, FACTOR * max(self._gaps, default=0.0))

    def hangs(self, now: float) -> str:
        """What to say of a training that hangs; empty when it doesn't."""
        if not self._floor or self._phase != "train" or self._since is None or now - self._since <= self.limit:
            return ""
        slowest = f"{max(self._gaps):.1f} s" if self._gaps else "unknown"
        return f"it hangs: no step for {now - self._since:.0f} s (slowest recent step: {slowest})"
