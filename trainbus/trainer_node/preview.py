"""What a model is shown of a data file, and how long its examples are: looked at before a training, not after it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from trainbus.trainer_node.formats import Example
from trainbus.trainer_node.tokens import IGNORED, tokenize


class Piece(Struct, frozen=True):
    """One token: its text, and whether it carries loss."""

    text: str
    learned: bool


class Preview(Struct, frozen=True, kw_only=True):
    """One example as the model sees it, cut at ``max_length``. ``tokens`` counts all that it has."""

    line: int
    pieces: list[Piece]
    tokens: int
    learned: int


class Lengths(Struct, frozen=True, kw_only=True):
    """Tokens of the examples that were looked at. Percentiles are by nearest rank."""

    examples: int
    total: int
    learned: int
    mean: float
    p50: int
    p95: int
    p99: int
    longest: int
    over: int
    max_length: int


def preview(example: Example, tokenizer: Any, max_length: int, *, source: str = "") -> Preview:
    """Tokenise one example as the training does.

    Raises:
        DataError: The chat template refuses it, or nothing in it carries loss.
    """
    dataset = tokenize([example], tokenizer, max_length, source=source)
    row = dataset[0]
    pieces = [Piece(tokenizer.decode([token]), label != IGNORED) for token, label in zip(row["input_ids"], row["labels"], strict=True)]
    return Preview(line=example.line, pieces=pieces, tokens=dataset.stats().longest, learned=sum(piece.learned for piece in pieces))


def lengths(examples: Sequence[Example], tokenizer: Any, max_length: int, *, source: str = "") -> Lengths:
    """How long examples are, the parts beyond ``max_length`` included.

    Raises:
        DataError: As for `preview`.
    """
    dataset = tokenize(examples, tokenizer, 1 << 40, source=source)
    counts = sorted(len(dataset[index]["input_ids"]) for index in range(len(dataset)))
    report = dataset.stats()
    return Lengths(
        examples=len(counts),
        total=report.tokens,
        learned=report.learned,
        mean=report.tokens / len(counts),
        p50=percentile(counts, 50),
        p95=percentile(counts, 95),
        p99=percentile(counts, 99),
        longest=counts[-1],
        over=sum(count > max_length for count in counts),
        max_length=max_length,
    )


def percentile(ordered: Sequence[int], percent: float) -> int:
    """The smallest value that at least ``percent`` of all don't exceed (nearest rank)."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
