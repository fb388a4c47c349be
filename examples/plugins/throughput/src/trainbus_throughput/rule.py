"""When is a run slow? Arithmetic alone: no events, no bus, so that it can be tested with numbers."""

from __future__ import annotations

from statistics import median

WINDOW = 50
"""Steps of which the usual speed is the median."""


def slow(before: list[float], now: float, fraction: float) -> bool:
    """Whether a speed lies below this fraction of the usual one. Nothing is slow until half of the window is known."""
    return len(before) >= WINDOW // 2 and now < fraction * median(before)


def remember(before: list[float], now: float) -> list[float]:
    """The speeds to judge the next one by. What is called slow is not remembered: it must not become usual."""
    return [*before, now][-WINDOW:]
