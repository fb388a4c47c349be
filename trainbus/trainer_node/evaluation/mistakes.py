"""A training file of the model's own mistakes on the training data: it is shown a wrong answer and learns the right one."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

import msgspec

from trainbus.bus.home import write_atomically

MOST = 200
"""Rows of the file: more of one model's mistakes would outweigh what it shall learn."""

WORDS = "{prompt}\n\nThis answer is wrong:\n{answer}\n\nGive the right one."


class Mistakes:
    """The newest `MOST` mistakes, one for each example.

    Args:
        path: JSON Lines with ``messages``; wrong answers stand in the user's turn, so that nothing is learned from them.
        forbidden: Ids of examples that must never be trained on, for they are measured with.
    """

    def __init__(self, path: Path, forbidden: Set[str]) -> None:
        self._path = path
        self._forbidden = forbidden
        self._rows: dict[str, dict[str, object]] = {}

    def add(self, example: str, prompt: str, answer: str, expected: str) -> None:
        """One more; an example that is measured with is left out."""
        if example in self._forbidden:
            return
        self._rows.pop(example, None)
        asked = WORDS.format(prompt=prompt, answer=answer)
        self._rows[example] = {
            "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": expected}],
            "example": example,
        }
        while len(self._rows) > MOST:
            del self._rows[next(iter(self._rows))]

    def save(self) -> None:
        """Write the file, when there is anything to write."""
        if not self._rows:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, b"".join(msgspec.json.encode(row) + b"\n" for row in self._rows.values()), mode=0o644)
