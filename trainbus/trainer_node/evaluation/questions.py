"""Examples as questions: what is asked, what is expected, and the tokens of both as training would see them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from trainbus.errors import DataError
from trainbus.trainer_node import tokens
from trainbus.trainer_node.formats import Example, Turn


class Question(Struct, frozen=True, kw_only=True):
    """``prompt`` is for people, ``prompt_ids`` is what the model is given. ``row`` is the whole example: ids and labels."""

    example: str
    dataset: str
    prompt: str
    expected: str
    prompt_ids: list[int]
    row: dict[str, list[int]]


def questions(examples: Iterable[Example], tokenizer: Any, max_length: int, *, source: str, dataset: str, limit: int) -> list[Question]:
    """The first ``limit`` examples that can be asked: they end with an assistant's turn, and all of it fits into ``max_length``."""
    found: list[Question] = []
    for example in examples:
        if len(found) >= limit:
            break
        if (question := _question(example, tokenizer, max_length, Path(source).name, dataset)) is not None:
            found.append(question)
    return found


def _question(example: Example, tokenizer: Any, max_length: int, source: str, dataset: str) -> Question | None:
    if len(example.turns) < 2 or example.turns[-1].role != "assistant":
        return None
    last = Example(turns=example.turns, line=example.line)
    text, spans = tokens.render(last, tokenizer)
    prompt_ids = tokenizer(text[: spans[-1][0]], add_special_tokens=False)["input_ids"]
    try:
        rows = tokens.tokenize([last], tokenizer, max_length, source=source)
    except DataError:
        return None
    if rows.stats().truncated:
        return None
    return Question(
        example=f"{source}:{example.line}",
        dataset=dataset,
        prompt=_shown(example.turns[:-1]),
        expected=example.turns[-1].content,
        prompt_ids=list(prompt_ids),
        row=_only_last(rows[0], len(prompt_ids)),
    )


def _only_last(row: dict[str, list[int]], prompt: int) -> dict[str, list[int]]:
    """Loss on the last answer only: it is what is asked for."""
    labels = [tokens.IGNORED if place < prompt else label for place, label in enumerate(row["labels"])]
    return {**row, "labels": labels}


def _shown(turns: Sequence[Turn]) -> str:
    if len(turns) == 1:
        return turns[0].content
    return "\n".join(f"{turn.role}: {turn.content}" for turn in turns)
