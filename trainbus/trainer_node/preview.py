"""What a model is shown of an example: looked at before a training, not after it."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from trainbus.trainer_node.dataset.packing import Packed
from trainbus.trainer_node.formats import Example
from trainbus.trainer_node.tokens import IGNORED, tokenize


class Piece(Struct, frozen=True):
    """One token: its text, and whether it carries loss. ``begins``: the first of an example in a pack."""

    text: str
    learned: bool
    begins: bool = False


class Preview(Struct, frozen=True, kw_only=True):
    """One example, or a row of packed ones, as the model sees it, cut at ``max_length``. ``tokens`` counts all that it has."""

    lines: list[int]
    pieces: list[Piece]
    tokens: int
    learned: int


def preview(example: Example, tokenizer: Any, max_length: int, *, source: str = "") -> Preview:
    """Tokenise one example as the training does.

    Raises:
        DataError: The chat template refuses it, or nothing in it carries loss.
    """
    dataset = tokenize([example], tokenizer, max_length, source=source)
    row = dataset[0]
    pieces = [Piece(tokenizer.decode([token]), label != IGNORED) for token, label in zip(row["input_ids"], row["labels"], strict=True)]
    return Preview(lines=[example.line], pieces=pieces, tokens=dataset.stats().longest, learned=sum(piece.learned for piece in pieces))


def preview_row(packed: Packed, index: int, tokenizer: Any) -> Preview:
    """A row of packed examples."""
    row = packed[index]
    columns = zip(row["input_ids"], row["labels"], row["position_ids"], strict=True)
    pieces = [Piece(tokenizer.decode([token]), label != IGNORED, place == 0) for token, label, place in columns]
    lines = packed.lines[packed.members(index)].tolist()
    return Preview(lines=lines, pieces=pieces, tokens=len(pieces), learned=sum(piece.learned for piece in pieces))
