"""Whether a model is as often right as it is sure."""

from __future__ import annotations

import math
from collections.abc import Iterable

BINS = 10
"""Of confidence, equally wide: the usual number (https://arxiv.org/abs/1706.04599, section 2)."""


def calibration_error(verdicts: Iterable[tuple[float, bool]]) -> float:
    """Expected calibration error of (confidence, whether it was right): 0 is perfect, NaN for none. NaN confidences don't count."""
    counts, sums, rights = [0] * BINS, [0.0] * BINS, [0] * BINS
    for confidence, right in verdicts:
        if math.isnan(confidence):
            continue
        place = min(BINS - 1, int(confidence * BINS))
        counts[place] += 1
        sums[place] += confidence
        rights[place] += right
    return binned_error(counts, sums, rights)


def binned_error(counts: Iterable[float], sums: Iterable[float], rights: Iterable[float]) -> float:
    """The same of bins: how many fell into each, the sum of their confidences, how many were right."""
    rows = list(zip(counts, sums, rights, strict=True))
    total = sum(count for count, _, _ in rows)
    return sum(abs(confidence - right) for _, confidence, right in rows) / total if total else math.nan


def confidence_of(loss: float) -> float:
    """exp(-loss): the geometric mean of the probabilities that the model gave to the expected tokens."""
    return math.exp(-loss) if loss >= 0 else math.nan
