"""A stream of examples into a `Writer`: in pieces, while the next piece is read and rendered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from trainbus.trainer_node.dataset.encoding import Encoder
from trainbus.trainer_node.dataset.rendering import Renderer
from trainbus.trainer_node.dataset.store import Writer
from trainbus.trainer_node.formats import Example

PIECE_CHARACTERS = 1 << 19
PIECE_EXAMPLES = 1_000
"""A piece is as large as the first of the two allows: enough for the tokenizer's threads, little memory."""


def tokenise_into(writer: Writer, examples: Iterable[Example], tokenizer: Any, *, source: str = "") -> None:
    """Tokenise all examples. Two pieces are in memory at a time: one in the tokenizer's threads, one in ours.

    Args:
        source: Named in errors.

    Raises:
        DataError: The chat template refuses a conversation (named by line), or whatever iterating raises.
    """
    renderer, encoder = Renderer(tokenizer, source), Encoder(tokenizer)
    with ThreadPoolExecutor(1, "trainbus-tokens") as thread:
        waiting = None
        for piece in _pieces(examples):
            rendered = renderer.render(piece)
            if waiting is not None:
                writer.append(waiting[0], waiting[1].result())
            waiting = piece, thread.submit(encoder.encode, rendered)
        if waiting is not None:
            writer.append(waiting[0], waiting[1].result())


def _pieces(examples: Iterable[Example]) -> Iterator[list[Example]]:
    piece: list[Example] = []
    characters = 0
    for example in examples:
        piece.append(example)
        characters += len(example.text) + sum(len(turn.content) for turn in example.turns)
        if characters >= PIECE_CHARACTERS or len(piece) >= PIECE_EXAMPLES:
            yield piece
            piece, characters = [], 0
    if piece:
        yield piece
