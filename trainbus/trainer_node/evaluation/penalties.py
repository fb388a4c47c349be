"""Logit processors for answers: less thinking aloud, and an end where the answer ends. They change what is generated, never the training.

Imports transformers: load only where training runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from transformers import LogitsProcessor


class PenaltyStats(Struct, frozen=True, kw_only=True):
    """``hits``: how often it applied. ``turned``: how often another token then was the likeliest."""

    hits: int = 0
    turned: int = 0


class Ramp(Struct, frozen=True, kw_only=True):
    """An amount that goes from ``first`` at the first generated token to ``last`` at token ``over``, and stays there."""

    first: float
    last: float
    over: int = 0

    def at(self, token: int) -> float:
        """The amount at generated token ``token``, counted from 0."""
        return self.last if token >= self.over else self.first + (self.last - self.first) * token / self.over


class _Penalty(LogitsProcessor, ABC):
    """Counts what a penalty does; ``apply`` changes scores in place and says which rows it changed."""

    def __init__(self, prompt: int) -> None:
        self.prompt = prompt
        self._hits = self._turned = 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores (rows, vocabulary) of the next token after ids (rows, tokens)."""
        changed = scores.clone()
        rows = [row for row, ids in enumerate(input_ids[:, self.prompt :].tolist()) if self.apply(ids, changed[row])]
        if rows:
            self._hits += len(rows)
            self._turned += int((scores[rows].argmax(-1) != changed[rows].argmax(-1)).sum())
        return changed

    @abstractmethod
    def apply(self, generated: Sequence[int], scores: Any) -> bool:
        """Change one row after what was generated in it."""

    def stats(self) -> PenaltyStats:
        """Counts so far."""
        return PenaltyStats(hits=self._hits, turned=self._turned)


class TagPenalty(_Penalty):
    """Takes an amount from the score of what would complete a tag, such as ``<think>``.

    Args:
        tags: Their tokens. Of a tag of several, the last is made less likely after all others.
        amount: What is taken, by the place in the answer.
        prompt: Tokens of the prompt, padding included.
    """

    def __init__(self, tags: Sequence[Sequence[int]], amount: Ramp, prompt: int = 0) -> None:
        super().__init__(prompt)
        self._tags = [tuple(tag) for tag in tags if tag]
        self._amount = amount

    def apply(self, generated: Sequence[int], scores: Any) -> bool:
        """Lower the last token of each tag that is complete but for it."""
        amount = self._amount.at(len(generated))
        last = {tag[-1] for tag in self._tags if _ends_with(generated, tag[:-1])}
        for token in last:
            scores[token] -= amount
        return bool(last)


class AfterStopPenalty(_Penalty):
    """Once a stop sequence was generated, makes the end likelier and everything else less likely.

    Args:
        stops: Their tokens.
        ends: Tokens that end an answer.
        penalty: Taken from all other tokens.
        reward: Added to the ends.
        prompt: Tokens of the prompt, padding included.
    """

    def __init__(self, stops: Sequence[Sequence[int]], ends: Sequence[int], penalty: float, reward: float, prompt: int = 0) -> None:
        super().__init__(prompt)
        self._stops = [tuple(stop) for stop in stops if stop]
        self._ends = list(ends)
        self._penalty, self._reward = penalty, reward

    def apply(self, generated: Sequence[int], scores: Any) -> bool:
        """Change the scores of a row in which a stop sequence stands."""
        if not any(_holds(generated, stop) for stop in self._stops):
            return False
        ends = scores[self._ends] + self._reward
        scores -= self._penalty
        scores[self._ends] = ends
        return True


def _ends_with(ids: Sequence[int], tail: Sequence[int]) -> bool:
    return not tail or tuple(ids[-len(tail) :]) == tuple(tail)


def _holds(ids: Sequence[int], part: Sequence[int]) -> bool:
    return any(tuple(ids[start : start + len(part)]) == tuple(part) for start in range(len(ids) - len(part) + 1))
