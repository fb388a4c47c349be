"""How sure a score is: pure functions of numbers of right and wrong answers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from msgspec import Struct

Z95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""
SIGNIFICANT = 0.05
"""A difference that chance alone makes less often than this is no noise."""
SMALLEST_LOGARITHM = -700.0
"""Of a probability that a float can hold; what is less likely adds nothing."""
BINS = 10
"""Bins of equal width for the calibration error, as in Guo et al. 2017, "On Calibration of Modern Neural Networks"."""


class Comparison(Struct, frozen=True):
    """Two checkpoints on the same questions. ``better`` and ``worse`` count the answers that became right and wrong.

    ``p_value``: how often chance alone splits the changed answers as unevenly (exact McNemar test). ``noise``: that is not rare.
    """

    judged: int
    better: int
    worse: int
    before: float
    after: float
    p_value: float
    noise: bool


def wilson(right: int, judged: int) -> tuple[float, float]:
    """95 % confidence interval of a share (Wilson 1927): sensible also at 0 %, at 100 % and for few questions.

    Raises:
        ValueError: Nothing was judged.
    """
    if judged <= 0:
        raise ValueError("an interval needs at least one judged answer")
    share, spread = right / judged, Z95 * Z95 / judged
    middle = share + spread / 2
    half = Z95 * math.sqrt(share * (1 - share) / judged + spread / (4 * judged))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def mcnemar(better: int, worse: int) -> float:
    """Exact two-sided p-value of the hypothesis that a changed answer becomes right as often as wrong (a binomial test)."""
    changed = better + worse
    tail: int = sum(math.comb(changed, count) for count in range(min(better, worse) + 1))
    return min(1.0, 2 * tail / (1 << changed))


def compare(before: Mapping[str, bool], after: Mapping[str, bool]) -> Comparison | None:
    """Compare verdicts by example, over the examples that both have; None when they share none."""
    shared = before.keys() & after.keys()
    if not shared:
        return None
    better = sum(after[example] and not before[example] for example in shared)
    worse = sum(before[example] and not after[example] for example in shared)
    p_value = mcnemar(better, worse)
    return Comparison(
        judged=len(shared),
        better=better,
        worse=worse,
        before=sum(before[example] for example in shared) / len(shared),
        after=sum(after[example] for example in shared) / len(shared),
        p_value=p_value,
        noise=p_value >= SIGNIFICANT,
    )


def least_entropy(likeliest: Iterable[float]) -> float:
    """Entropy (nats) of a distribution of which the log-probabilities of the likeliest outcomes are known.

    The rest counts as one outcome: exact when there is no rest, else less than the whole entropy, as grouping always makes it.
    """
    known = [math.exp(value) for value in (min(0.0, given) for given in likeliest) if value > SMALLEST_LOGARITHM]
    rest = 1.0 - sum(known)
    return sum(-share * math.log(share) for share in (*known, rest) if share > 0)


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
