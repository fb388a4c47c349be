"""How soon to look again: as often as it takes to see an end come, and no oftener."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from trainbus.plugins.memory.levels import Limit

LOOKS_BEFORE_END = 100
"""At the present rate this many looks fall before memory ends: enough for a line through them and for what is to be done."""
LOOKS_A_STEP = 2.0
"""While a training is young there is a look at least every so many steps: a leak of its first steps is seen in time."""
MEMORY_SECONDS = 30.0
"""A rise is movement only above the highest value of so many seconds: memory that goes up and down in each step is calm."""


class Pace:
    """Chooses the interval.

    Args:
        calm: The longest interval in seconds.
        fast: The shortest.
    """

    def __init__(self, calm: float, fast: float) -> None:
        self._calm = calm
        self._fast = fast
        self._interval = calm
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def next(self, limits: Iterable[Limit], now: float, step_seconds: float | None = None) -> float:
        """Seconds until the next look: shorter at once, longer by doubling, because what moved once may move again.

        Args:
            limits: The memories of this look.
            now: Monotonic seconds.
            step_seconds: Of a training that is young; None when there is none.
        """
        wanted = self._calm
        for limit in limits:
            rate = self._rate(limit, now)
            if rate > 0:
                wanted = min(wanted, limit.room / rate / LOOKS_BEFORE_END)
        if step_seconds is not None:
            wanted = min(wanted, step_seconds * LOOKS_A_STEP)
        self._interval = max(self._fast, min(wanted, self._calm, max(self._interval, self._fast) * 2))
        return self._interval

    def _rate(self, limit: Limit, now: float) -> float:
        """Bytes a second above the highest value of the last seconds; 0 when there is no new height."""
        seen = self._seen.setdefault(limit.key, deque())
        while seen and now - seen[0][0] > MEMORY_SECONDS:
            seen.popleft()
        highest = max((used for _, used in seen), default=None)
        before = seen[-1][0] if seen else None
        seen.append((now, limit.used))
        if highest is None or before is None or now <= before or limit.used <= highest:
            return 0.0
        return (limit.used - highest) / (now - before)
