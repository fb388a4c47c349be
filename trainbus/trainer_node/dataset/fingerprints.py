"""What of an example is compared when the same one is looked for elsewhere: four numbers of 64 bits."""

from __future__ import annotations

from array import array
from typing import Protocol

import numpy as np
import xxhash

from trainbus.judging.folding import folded
from trainbus.trainer_node.dataset.encoding import Integers
from trainbus.trainer_node.formats import Example

EXACT, NORMAL, PROMPT, ID = range(4)
"""Columns: the text as it is; the text without case, width and amount of blanks; the same of what stands before the last answer; the
row's own id. 0 where there is nothing to compare."""


class Fingerprinted(Protocol):
    """Examples whose fingerprints are known."""

    @property
    def lines(self) -> Integers:
        """The line of each in its file."""
        ...

    def prints(self, column: int) -> Integers:
        """One column; a million examples have 8 MB of each, so only what is compared is read."""
        ...


class Fingerprints:
    """Of a stream of examples."""

    def __init__(self) -> None:
        self._lines = array("q")
        self._columns = tuple(array("Q") for _ in range(4))

    def add(self, example: Example) -> None:
        """One more."""
        self._lines.append(example.line)
        for column, value in zip(self._columns, fingerprint(example), strict=True):
            column.append(value)

    @property
    def lines(self) -> Integers:
        """The line of each example."""
        return np.array(self._lines)

    def prints(self, column: int) -> Integers:
        """One column."""
        return np.array(self._columns[column])


def fingerprint(example: Example) -> tuple[int, int, int, int]:
    """The columns of one example.

    An id that is a plain number is not compared: it counts the rows of its own file. Two of a million examples have the same number by
    chance once in 40 million data sets.
    """
    exact, normal, prompt = xxhash.xxh3_64(), xxhash.xxh3_64(), 0
    for number, turn in enumerate(example.turns):
        if turn.role == "assistant" and number:
            prompt = normal.intdigest()
        exact.update(f"{turn.role}\0{turn.content}\0".encode("utf-8", "surrogatepass"))
        normal.update(f"{turn.role}\0{folded(turn.content)}\0".encode("utf-8", "surrogatepass"))
    if not example.turns:
        exact.update(example.text.encode("utf-8", "surrogatepass"))
        normal.update(folded(example.text).encode("utf-8", "surrogatepass"))
    own = xxhash.xxh3_64_intdigest(example.id.encode()) if example.id and not example.id.isdecimal() else 0
    return exact.intdigest(), normal.intdigest(), prompt, own
