"""Tokens become text piece by piece: no half character is shown, and nothing of a stop text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

HALF = "\ufffd"
"""What a decoder writes for bytes that are no whole character yet."""

HALF_TOKENS_MAX = 8
"""A character has at most four bytes: what is not whole after so many tokens is shown as it is."""


class Shown(NamedTuple):
    """Text that may be shown, and the stop text that was met, if any."""

    text: str
    stop: str | None


class TextStream:
    """The text of one answer.

    A token's text depends on those before it (leading spaces, bytes of one character), so what is decoded is a short window of
    the last tokens, and what is new is its difference to the window without the new ones.

    Args:
        decode: Token ids to text, special tokens left out.
        stops: Texts that end the answer.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stops = stops
        self._ids: list[int] = []
        self._begin = self._read = 0
        self._held = ""

    def push(self, token: int) -> Shown:
        """Take one more token."""
        self._ids.append(token)
        return self._show(self._decoded(final=False))

    def finish(self) -> Shown:
        """No more tokens: what was held back."""
        shown = self._show(self._decoded(final=True))
        rest, self._held = ("" if shown.stop else self._held), ""
        return Shown(shown.text + rest, shown.stop)

    def _decoded(self, *, final: bool) -> str:
        before = self._decode(self._ids[self._begin : self._read])
        now = self._decode(self._ids[self._begin :])
        if now.endswith(HALF) and not final and len(self._ids) - self._read < HALF_TOKENS_MAX:
            return ""
        self._begin, self._read = self._read, len(self._ids)
        return now[len(before) :]

    def _show(self, new: str) -> Shown:
        text = self._held + new
        found = [(text.index(stop), stop) for stop in self._stops if stop in text]
        if found:
            at, stop = min(found)
            self._held = ""
            return Shown(text[:at], stop)
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return Shown(text[: len(text) - held], None)


def _overlap(text: str, stop: str) -> int:
    """How many of the last characters of ``text`` may begin ``stop``."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if stop.startswith(text[len(text) - length :])), 0)
