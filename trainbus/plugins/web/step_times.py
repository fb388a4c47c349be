"""How long the steps of a run took: exact counts in bins of equal ratio, in memory that doesn't follow the run's length."""

from __future__ import annotations

import math
from collections import Counter

from msgspec import Struct

BINS_PER_DECADE = 20
"""Each bin is 12 % wider than the one before."""

SHORTEST, LONGEST = 1e-5, 1e6
"""Seconds; shorter and longer steps are counted in the bins at the ends."""


class StepTimesStats(Struct, frozen=True):
    """Bin ``i`` counts steps from ``edges[i]`` to ``edges[i + 1]`` seconds. Percentiles are upper edges of bins: up to 12 % high."""

    counted: int
    edges: list[float]
    counts: list[int]
    p50: float | None
    p95: float | None
    p99: float | None
    longest: float | None


class StepTimes:
    """The histogram of one run."""

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()
        self._longest: float | None = None

    def add(self, seconds: float) -> None:
        """A step took so long."""
        self._bins[math.floor(math.log10(min(LONGEST, max(SHORTEST, seconds))) * BINS_PER_DECADE)] += 1
        self._longest = max(seconds, self._longest or 0.0)

    def stats(self) -> StepTimesStats:
        """All bins from the first to the last that holds a step."""
        counted = self._bins.total()
        bins = range(min(self._bins), max(self._bins) + 1) if counted else range(0)
        return StepTimesStats(
            counted=counted,
            edges=[_edge(index) for index in range(bins.start, bins.stop + 1)] if counted else [],
            counts=[self._bins[index] for index in bins],
            p50=self._percentile(0.50),
            p95=self._percentile(0.95),
            p99=self._percentile(0.99),
            longest=self._longest,
        )

    def _percentile(self, share: float) -> float | None:
        wanted, seen = share * self._bins.total(), 0
        for index in sorted(self._bins):
            seen += self._bins[index]
            if seen >= wanted:
                return min(_edge(index + 1), self._longest or 0.0)
        return None


def _edge(index: int) -> float:
    return float(10 ** (index / BINS_PER_DECADE))
