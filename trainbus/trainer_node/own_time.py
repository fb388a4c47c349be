"""How long one process takes by itself for a step: until it begins to exchange gradients, where all wait for the slowest.

Steps of all processes take equally long, because each waits for the others; a straggler shows only in what came before. Imports torch: load
only where training runs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch


class OwnTime:
    """Sums the time from the end of one micro-batch to the loss of the next: waiting for data, and the forward pass.

    On a GPU kernels run behind the program, so that time is taken there, by events in its stream; they are read one step later, when
    they have passed.
    """

    def __init__(self) -> None:
        self._device = torch.cuda.is_available()
        self._open: Any = None
        self._spans: list[tuple[Any, Any]] = []
        self._passed: list[tuple[Any, Any]] = []

    def begin(self) -> None:
        """A micro-batch is over, and the next is fetched."""
        self._open = self._mark()

    def end(self) -> None:
        """The loss of a micro-batch is there."""
        if self._open is not None:
            self._spans.append((self._open, self._mark()))
            self._open = None

    def take(self) -> float | None:
        """Seconds of the step that ends now; on a GPU of the step before, and None when that isn't known yet."""
        spans, self._spans = self._spans, []
        if not self._device:
            return float(sum(end - begin for begin, end in spans))
        passed, self._passed = self._passed, spans
        if not passed or not all(end.query() for _, end in passed):
            return None
        return sum(float(begin.elapsed_time(end)) for begin, end in passed) / 1000

    def _mark(self) -> Any:
        if not self._device:
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def compared(seconds: Sequence[float]) -> dict[str, float]:
    """The slowest of all processes beside their median."""
    slowest = max(seconds)
    return {"own_seconds_slowest": slowest, "own_seconds_median": statistics.median(seconds), "slowest_rank": seconds.index(slowest)}
