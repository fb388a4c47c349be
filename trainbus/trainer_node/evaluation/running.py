"""Figures that go on from one evaluation to the next, and over restarts: accuracy of the last answers, course of the training loss."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

SHORT, LONG = 20, 50
"""Answers of the two windows; the trend is the last 20 less the 20 before them."""

WINDOW, SMOOTHING = 50, 0.1
"""Of the training loss: steps of the window, share of a new value in the moving average."""

MOST_UNREAD = 512
"""Losses that may wait on the device before they are read: one wait for all of them."""


class Standing(Struct, kw_only=True):
    """What of it a checkpoint keeps."""

    asked: int = 0
    right: int = 0
    recent: list[bool] = []
    best: float = -1.0
    best_step: int = 0


class RunningAccuracy:
    """Share of right answers: of the last 20, of the last 50, of all."""

    def __init__(self, standing: Standing) -> None:
        self._standing = standing

    def add(self, verdicts: Iterable[bool]) -> None:
        """More answers, in their order."""
        for right in verdicts:
            self._standing.asked += 1
            self._standing.right += right
            self._standing.recent = [*self._standing.recent[-(LONG - 1) :], right]

    def figures(self) -> dict[str, float]:
        """Metrics; the trend is above 0 while it gets better. Nothing before the first answer."""
        held = self._standing
        if not held.asked:
            return {}
        short, before = _share(held.recent[-SHORT:]), held.recent[-2 * SHORT : -SHORT]
        found = {f"accuracy_last_{SHORT}": short, f"accuracy_last_{LONG}": _share(held.recent), "accuracy_overall": held.right / held.asked}
        return {**found, "accuracy_trend": short - _share(before)} if before else found


class StreamingLoss:
    """The loss of the training: an exponential moving average, and mean and variance of a window.

    Values may be 0-d tensors on a device: they are read together, when figures are wanted.
    """

    def __init__(self) -> None:
        self._unread: list[Any] = []
        self._window: list[float] = []
        self._average = math.nan

    def add(self, loss: Any) -> None:
        """The loss of one step."""
        self._unread.append(loss)
        if len(self._unread) >= MOST_UNREAD:
            self._read()

    def figures(self) -> dict[str, float]:
        """train_loss (mean of the window), its variance, its moving average. Nothing before the first step."""
        self._read()
        if not self._window:
            return {}
        return {
            "train_loss": statistics.fmean(self._window),
            "train_loss_variance": statistics.pvariance(self._window),
            "train_loss_average": self._average,
        }

    def _read(self) -> None:
        for value in _numbers(self._unread):
            self._average = value if math.isnan(self._average) else self._average + SMOOTHING * (value - self._average)
            self._window = [*self._window[-(WINDOW - 1) :], value]
        self._unread.clear()


def _share(verdicts: Sequence[bool]) -> float:
    return sum(verdicts) / len(verdicts)


def _numbers(values: Sequence[Any]) -> list[float]:
    if values and hasattr(values[0], "detach"):
        import torch

        return [float(value) for value in torch.stack([value.detach().float().reshape(()) for value in values]).tolist()]
    return [float(value) for value in values]
