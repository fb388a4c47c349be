"""How a job tells its progress to whoever started it; the bus gets its own events in any case."""

from __future__ import annotations

import time
from typing import Protocol


class Observer(Protocol):
    """Called from the training thread; must be quick and not raise."""

    def phase(self, name: str) -> None:
        """A phase begins."""

    def progress(self, fraction: float) -> None:
        """How far the phase is, 0 to 1."""

    def step(self, step: int, total: int, loss: float) -> None:
        """An optimizer step is done. Not every step is told: at most a few a second, and the last."""

    def note(self, text: str) -> None:
        """Something that a person should know."""


class Silent:
    """An observer that tells nobody."""

    def phase(self, name: str) -> None:
        """Nothing."""

    def progress(self, fraction: float) -> None:
        """Nothing."""

    def step(self, step: int, total: int, loss: float) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


class Throttle:
    """Says yes at most once in ``interval`` seconds: reading a loss for a person waits for the device."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._next = 0.0

    def ready(self) -> bool:
        """Whether it is time again."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._interval
        return True
