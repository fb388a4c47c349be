"""Values that are dear to read are read seldom: the watcher's own cost has a bound whatever the machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

DUTY = 0.002
"""The share of one core that one dear value may cost: four of them leave room in the 1 % that the whole may take."""


class Paced(Generic[T]):
    """The last answer of a reader, asked again after ``period`` seconds, or later when an answer takes long.

    Args:
        read: Gives the value; what it raises is kept and raised again until it is asked anew.
        period: The shortest time between two questions, in seconds.
        now: Monotonic seconds.
    """

    def __init__(self, read: Callable[[], T], period: float, now: Callable[[], float]) -> None:
        self._read = read
        self._period = period
        self._now = now
        self._due = float("-inf")
        self._value: T | None = None
        self._error: Exception | None = None

    def get(self) -> T:
        """The value, read now when it is due."""
        began = self._now()
        if began >= self._due:
            try:
                self._value, self._error = self._read(), None
            except Exception as error:  # noqa: BLE001 - kept, and raised below each time until the next question
                self._value, self._error = None, error
            ended = self._now()
            self._due = ended + max(self._period, (ended - began) / DUTY)
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def forget(self) -> None:
        """Ask again at the next look."""
        self._due = float("-inf")
