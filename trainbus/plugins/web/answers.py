"""What a model answered: the newest samples, how often it was right, which answers deserve a look, and how one example evolved."""

from __future__ import annotations

import math
from collections import deque
from itertools import islice
from typing import Any

from msgspec import Struct, structs

from trainbus.bus.events import Sample

LONGEST = 4_000
"""Characters that are kept of a prompt, an answer or an expected answer."""

FLAGGED = 1_000
EXAMPLES, VERSIONS = 500, 50
"""Examples that are followed over checkpoints, and answers kept of each."""

CONFIDENT, UNSURE = 0.5, 0.1
"""exp(-loss) from which an answer counts as confident, and below which as unsure."""


class Accuracy(Struct, frozen=True):
    """Share of right answers among the last 20, the last 50, and all; ``trend`` is the last 20 less the 20 before them."""

    last20: float | None
    last50: float | None
    overall: float | None
    trend: float | None
    scored: int


class Answers:
    """The samples of one run.

    Args:
        limit: Samples that are kept whole.
    """

    def __init__(self, limit: int) -> None:
        self.recent: deque[Sample] = deque(maxlen=limit)
        self.flagged: deque[tuple[Sample, tuple[str, ...]]] = deque(maxlen=FLAGGED)
        self.examples: dict[str, deque[Sample]] = {}
        self._verdicts: deque[bool] = deque(maxlen=50)
        self._scored = self._right = 0

    def add(self, sample: Sample) -> None:
        """Take in the next sample. Texts are cut to `LONGEST`, so that memory stays bounded."""
        sample = structs.replace(
            sample, **{name: _cut(getattr(sample, name)) for name in ("prompt", "answer", "expected", "example", "dataset")}
        )
        before = self.examples.get(sample.example) if sample.example else None
        reasons = _reasons(sample, before[-1] if before else None)
        if reasons:
            self.flagged.append((sample, reasons))
        self.recent.append(sample)
        if sample.correct is not None:
            self._verdicts.append(sample.correct)
            self._scored += 1
            self._right += sample.correct
        if sample.example:
            self.examples.setdefault(sample.example, deque(maxlen=VERSIONS)).append(sample)
            if len(self.examples) > EXAMPLES:
                del self.examples[next(iter(self.examples))]

    def accuracy(self, last: int) -> float | None:
        """Share of right answers among the last ``last`` (at most 50) scored ones."""
        verdicts = list(self._verdicts)[-last:]
        return sum(verdicts) / len(verdicts) if verdicts else None

    def figures(self) -> Accuracy:
        """Running accuracy with its trend."""
        verdicts = list(self._verdicts)
        before = list(islice(reversed(verdicts), 20, 40))
        now = self.accuracy(20)
        return Accuracy(
            last20=now,
            last50=self.accuracy(50),
            overall=self._right / self._scored if self._scored else None,
            trend=now - sum(before) / len(before) if before and now is not None else None,
            scored=self._scored,
        )


def confidence(sample: Sample) -> float | None:
    """exp(-loss): the geometric mean of the probabilities that the model gave to the right tokens."""
    return math.exp(-sample.loss) if sample.loss is not None and 0 <= sample.loss < math.inf else None


def _reasons(sample: Sample, before: Sample | None) -> tuple[str, ...]:
    """Why a sample deserves a look: wrong, wrong though confident, unsure, regressed (it was right before)."""
    sure = confidence(sample)
    found: list[str] = []
    if sample.correct is False:
        found.append("wrong")
        if sure is not None and sure >= CONFIDENT:
            found.append("confidently_wrong")
        if before is not None and before.correct:
            found.append("regressed")
    if sure is not None and sure < UNSURE:
        found.append("unsure")
    return tuple(found)


def _cut(text: Any) -> Any:
    return text[:LONGEST] + "…" if isinstance(text, str) and len(text) > LONGEST else text
