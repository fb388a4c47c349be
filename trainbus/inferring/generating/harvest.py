"""What is of use in an answer: rows of the wanted format, or why not. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from trainbus.inferring.asking import Answer
from trainbus.inferring.generating.recipe import Asking
from trainbus.judging.folding import folded
from trainbus.trainer_node.formats import Example, Format, RowError, detect

MAX_ANSWER_CHARACTERS = 1_000_000
MAX_TRIES = 10_000
"""Braces in an answer that are looked at as the beginning of an object."""
OPTIONAL_KEYS = {"alpaca": ("input",)}

NOT_JSON = "no JSON object"
CUT = "cut by --max-tokens"


class Picked(Struct, frozen=True):
    """A row and what it means; or, with a ``fault``, what was no example, and why."""

    row: dict[str, Any]
    example: Example = Example()
    fault: str = ""


def rows_of(answer: Answer, wanted: Format) -> Iterator[Picked]:
    """The examples that an answer holds as JSON: one a line, in a list, in a fence, or between words."""
    found = 0
    for row in _objects(answer.text[:MAX_ANSWER_CHARACTERS]):
        found += 1
        yield _validated(row, wanted)
    if not found:
        yield Picked({"answer": answer.text}, fault=CUT if answer.finish_reason == "length" else NOT_JSON)


def conversation_of(asking: Asking, answer: Answer) -> Picked:
    """What was asked and answered, as one example."""
    asked = [{"role": "user", "content": asking.prompt}] if isinstance(asking.prompt, str) else [dict(turn) for turn in asking.prompt]
    row = {"messages": [*asked, {"role": "assistant", "content": answer.text.strip()}]}
    if answer.finish_reason == "length":
        return Picked(row, fault=CUT)
    return _validated(row, detect(row))


def texts_of(example: Example) -> tuple[str, str]:
    """Two texts by which examples are told to be the same: what is asked (empty for a plain text), and all of it."""
    asked = "\n".join(folded(turn.content) for turn in example.turns if turn.role != "assistant")
    return asked, "\n".join([*(f"{turn.role}: {folded(turn.content)}" for turn in example.turns), folded(example.text)])


def _validated(row: dict[str, Any], wanted: Format) -> Picked:
    keys = (*wanted.keys, *OPTIONAL_KEYS.get(wanted.name, ()))
    try:
        known = detect(row)
        if known.name != wanted.name:
            return Picked(row, fault=f"the format {known.name}, not {wanted.name}")
        return Picked({key: row[key] for key in keys if key in row}, wanted.convert(row))
    except RowError as error:
        return Picked(row, fault=error.what)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """JSON objects in a text, outermost first, whatever stands between them."""
    decoder, place = json.JSONDecoder(), 0
    for _ in range(MAX_TRIES):
        place = text.find("{", place)
        if place < 0:
            return
        try:
            row, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            place += 1
            continue
        yield row


def reasons(picked: Sequence[Picked]) -> dict[str, int]:
    """How often each fault came, the most frequent first."""
    counts: dict[str, int] = {}
    for one in picked:
        counts[one.fault] = counts.get(one.fault, 0) + 1
    return dict(sorted(counts.items(), key=lambda pair: -pair[1]))
