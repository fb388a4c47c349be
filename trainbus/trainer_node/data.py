"""Examples in memory: for sets that are small, such as an evaluation set. A training reads by `trainbus.trainer_node.dataset`."""

from __future__ import annotations

import random
from collections.abc import Collection
from pathlib import Path

import msgspec

from trainbus.trainer_node.dataset.reading import Reading
from trainbus.trainer_node.dataset.source import Rejected, Source, is_hub_name
from trainbus.trainer_node.formats import Example

__all__ = ["Loaded", "Rejected", "held_out", "is_hub_name", "load", "load_file", "split"]


MOST_HELD = 100
"""More examples make a measure that every training pays for hardly surer."""


class Loaded(msgspec.Struct):
    """Examples of one source, what format they had, and the lines that were left out."""

    examples: list[Example]
    format: str
    source: str
    rejected: list[Rejected] = []


def load(
    source: str,
    reading: Reading = Reading(),  # noqa: B008 - frozen
    *,
    tolerant: bool = False,
    lines: Collection[int] | None = None,
) -> Loaded:
    """The examples of a file, or of a hub data set when no such file exists and the name could be one.

    Args:
        reading: What decides on the examples, beside the file.
        tolerant: Lines that are no examples are left out and told, as long as they are not more than half.
        lines: Keep the examples of these lines only.

    Raises:
        DataError: Missing, unreadable, malformed or empty; the facts name file and line.
    """
    rejected: list[Rejected] = []
    stream = Source(source, reading, tolerant=tolerant, reject=rejected.append)
    examples = [example for example in stream if lines is None or example.line in lines]
    return Loaded(examples, stream.format, source, rejected)


def load_file(path: Path, *, tolerant: bool = False) -> Loaded:
    """As `load`, of a file.

    Raises:
        DataError: As for `load`.
    """
    return load(str(path), tolerant=tolerant)


def held_out(examples: int, fraction: float, seed: int, most: int = MOST_HELD) -> list[int]:
    """Which of so many examples are held out, in order; the same for the same seed. At least one is, and one stays; none for fraction 0."""
    held = min(max(1, round(examples * fraction)), most, examples - 1)
    return sorted(random.Random(seed).sample(range(examples), held)) if fraction > 0 and held > 0 else []


def split(examples: list[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Examples to train on, and those that `held_out` names."""
    held = held_out(len(examples), fraction, seed)
    chosen = set(held)
    return [e for i, e in enumerate(examples) if i not in chosen], [examples[i] for i in held]
