"""Tokenised examples as questions: what comes before the last answer is asked, the last answer is expected."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any, Protocol

from msgspec import Struct

from trainbus.trainer_node.dataset.encoding import Integers
from trainbus.trainer_node.profile import PLAIN, Profile
from trainbus.trainer_node.tokens import IGNORED


class Rows(Protocol):
    """Tokenised examples; ``lines`` are their places in the file."""

    @property
    def lines(self) -> Sequence[int] | Integers:
        """The line of each."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        """``input_ids`` and ``labels``."""


class Question(Struct, frozen=True, kw_only=True):
    """``prompt`` is for people, ``prompt_ids`` is what the model is given. ``row`` is both parts: ids, and labels of the answer alone."""

    example: str
    dataset: str
    prompt: str
    expected: str
    prompt_ids: list[int]
    row: dict[str, list[int]]


class Drawn:
    """Some rows of a dataset, in their order."""

    def __init__(self, rows: Rows, places: Sequence[int]) -> None:
        self._rows, self._places = rows, places
        self.lines = [int(rows.lines[place]) for place in places]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self._rows[self._places[index]]


def drawn(rows: Rows, limit: int, seed: int) -> Rows:
    """At most ``limit`` rows, the same for the same seed."""
    if len(rows) <= limit:
        return rows
    return Drawn(rows, sorted(random.Random(seed).sample(range(len(rows)), limit)))


def questions(
    rows: Rows, tokenizer: Any, max_length: int, *, source: str, dataset: str, limit: int, profile: Profile = PLAIN
) -> list[Question]:
    """The first ``limit`` rows that can be asked: with something before their last answer, and not cut.

    Args:
        profile: In which they were dressed; people are shown them without it.
    """
    found: list[Question] = []
    for index in range(len(rows)):
        if len(found) >= limit:
            break
        row = rows[index]
        start = _answer_start(row)
        if start and len(row["input_ids"]) < max_length:
            found.append(_question(row, start, tokenizer, f"{source}:{rows.lines[index]}", dataset, profile))
    return found


def _answer_start(row: dict[str, list[int]]) -> int:
    """Where the last answer begins; 0 when there is none, or nothing before it, or the row is not one example."""
    if row.keys() != {"input_ids", "labels"}:
        return 0
    learned = [label != IGNORED for label in row["labels"]]
    if not any(learned):
        return 0
    end = len(learned) - learned[::-1].index(True)
    return next((place for place in range(end, 0, -1) if not learned[place - 1]), 0)


def _question(row: dict[str, list[int]], start: int, tokenizer: Any, example: str, dataset: str, profile: Profile) -> Question:
    ids, labels = row["input_ids"], row["labels"]
    answer = [label for label in labels[start:] if label != IGNORED]
    end = start + len(answer)
    asked = str(tokenizer.decode(ids[:start], skip_special_tokens=True))
    if profile.system and profile.system in asked:
        asked = asked.partition(profile.system)[2]
    expected = str(tokenizer.decode(answer, skip_special_tokens=True)).strip()
    bare = profile.answer_in(expected)
    return Question(
        example=example,
        dataset=dataset,
        prompt=profile.question_in(_shown(asked)),
        expected=expected if bare is None else bare,
        prompt_ids=ids[:start],
        row={"input_ids": ids[:end], "labels": [IGNORED] * start + ids[start:end]},
    )


_ASKS = re.compile(r"^\s*user(?::|\n)\s*", re.IGNORECASE)
_ANSWERS = re.compile(r"\s*\bassistant(?::|\n)?\s*$", re.IGNORECASE)


def _shown(text: str) -> str:
    """Without the words that a chat template puts around a question."""
    return _ANSWERS.sub("", _ASKS.sub("", text)).strip()
