"""Rendered texts as token ids, each with whether it carries loss."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainbus.trainer_node.dataset.rendering import Rendered, Span

Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[Any]


class Encoded(NamedTuple):
    """Tokens of some examples, one after the other. A token is learned when it begins within a span of its text."""

    ids: Integers
    learned: Bools
    lengths: Integers


class Encoder:
    """Tokenises as ``tokenizer(text, add_special_tokens=False)`` does, in all of the tokenizer's threads.

    Asking the tokenizer where its tokens stand in the text costs a fifth of its time and most of its memory. The tokens of byte-level
    tokenizers (most of today's) have a known width in bytes, so where they stand is a sum: it is used where it comes out at the text's
    end, and the tokenizer is asked for everything else.

    Args:
        tokenizer: A fast tokenizer of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._widths = _widths(self._backend)

    def encode(self, rendered: Sequence[Rendered]) -> Encoded:
        """Tokenise texts. Safe to call from one other thread at a time."""
        self._backend.no_truncation()
        self._backend.no_padding()
        texts = [text for text, _ in rendered]
        if self._widths is not None:
            encoded = self._by_width(rendered, self._backend.encode_batch_fast(texts, add_special_tokens=False), self._widths)
            if encoded is not None:
                return encoded
        encodings = self._backend.encode_batch(texts, add_special_tokens=False)
        learned = chain.from_iterable(_learned(one.offsets, spans) for one, (_, spans) in zip(encodings, rendered, strict=True))
        ids, lengths = _joined(encodings)
        return Encoded(ids, np.fromiter(learned, np.bool_, len(ids)), lengths)

    def _by_width(self, rendered: Sequence[Rendered], encodings: Sequence[Any], widths: Integers) -> Encoded | None:
        """None when the tokens of a text are not as wide as the text: something was normalised."""
        ids, lengths = _joined(encodings)
        ends = np.cumsum(widths[ids], dtype=np.int64)
        sizes = [len(text) if text.isascii() else len(text.encode()) for text, _ in rendered]
        text_ends = np.cumsum(sizes)
        if not np.array_equal(np.concatenate(([0], ends))[np.cumsum(lengths)], text_ends):
            return None
        begins = text_ends - sizes
        places = ((begin, text, at) for begin, (text, spans) in zip(begins, rendered, strict=True) for span in spans for at in span)
        bounds = np.fromiter((begin + _bytes_before(text, at) for begin, text, at in places), np.int64)
        tokens = np.searchsorted(ends - widths[ids], bounds)
        marks = np.zeros(len(ids) + 1, np.int32)
        np.add.at(marks, tokens[::2], 1)
        np.add.at(marks, tokens[1::2], -1)
        return Encoded(ids, np.cumsum(marks[:-1]) > 0, lengths)


def _joined(encodings: Sequence[Any]) -> tuple[Integers, Integers]:
    """Ids of all, and how many each has."""
    lists = [one.ids for one in encodings]
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    return np.fromiter(chain.from_iterable(lists), np.uint32, int(lengths.sum())), lengths


def _bytes_before(text: str, at: int) -> int:
    return at if text.isascii() else len(text[:at].encode())


def _widths(backend: Any) -> Integers | None:
    """Bytes of each token of a byte-level tokenizer, whose vocabulary has one character a byte; None for others."""
    if type(backend.decoder).__name__ != "ByteLevel":
        return None
    added = backend.get_added_tokens_decoder()
    tokens = (backend.id_to_token(number) or "" for number in range(backend.get_vocab_size()))
    return np.fromiter((len(token.encode()) if number in added else len(token) for number, token in enumerate(tokens)), np.uint16)


def _learned(offsets: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """For each token whether it begins within a span. Both are in text order, so one pass does."""
    learned = []
    current = 0
    for start, stop in offsets:
        while current < len(spans) and start >= spans[current][1]:
            current += 1
        learned.append(current < len(spans) and start >= spans[current][0] and stop > start)
    return learned
