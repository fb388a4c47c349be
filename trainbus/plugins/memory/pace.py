"""How soon to look again: a pure function of how fast memory moves."""

from __future__ import annotations

FAST_RATE = 2.0
"""Percentage points a second: from 85 % to the end in eight seconds. Slower changes are seen in time at the calm pace."""


def next_interval(last: float, rate: float | None, *, calm: float, fast: float) -> float:
    """Seconds until the next look.

    Args:
        last: The interval before.
        rate: Percentage points a second, up or down; None when it is not known.
        calm: The longest interval.
        fast: The shortest.

    Returns:
        ``fast`` while memory moves fast; then doubling up to ``calm``, because what moved once may move again.
    """
    if rate is not None and abs(rate) >= FAST_RATE:
        return fast
    return min(calm, max(last, fast) * 2)
