"""Seeds from a file in any format that training reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainbus.inferring.generating.recipe import Seed
from trainbus.trainer_node.data import load_file
from trainbus.trainer_node.formats import FORMATS, Example, Format

SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt", "tool": "tool"}
"""What ShareGPT calls whom."""


def load_seeds(path: Path) -> tuple[list[Seed], Format]:
    """The examples of a file, as rows of its format.

    Raises:
        DataError: It can't be read, or a line is no example; names file and line.
    """
    loaded = load_file(path)
    wanted = next(known for known in FORMATS if known.name == loaded.format)
    return [Seed(row_of(example, wanted), example, example.line) for example in loaded.examples], wanted


def row_of(example: Example, wanted: Format) -> dict[str, Any]:
    """An example as a row of its format, under the keys that the format itself has."""
    if wanted.name == "messages":
        return {"messages": [{"role": turn.role, "content": turn.content} for turn in example.turns]}
    if wanted.name == "ShareGPT":
        return {"conversations": [{"from": SPEAKERS[turn.role], "value": turn.content} for turn in example.turns]}
    if wanted.name == "text":
        return {"text": example.text}
    asked, answered = wanted.keys
    return {asked: example.turns[0].content, answered: example.turns[1].content}
