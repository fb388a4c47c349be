"""Answers that stand in their own questions: a model that is trained on them learns to copy."""

from __future__ import annotations

import re

from trainbus.judging.folding import folded
from trainbus.trainer_node.formats import Example

LEAST_CHARACTERS = 20
"""A shorter answer (yes, a name, a number) may well be a word of the question."""
OPENING_CHARACTERS = 50
"""The first so many characters of a longer answer."""
TOLD = re.compile(r"(?:answer|solution|result)\s*(?:is|:|=)\s*[\"'`(]*([^\s\"'`).,;]+)|####\s*(\S+)", re.IGNORECASE)
"""Where a question tells an answer."""


def answer_in_question(example: Example) -> str:
    """How the last answer stands in what was asked for it; empty when it does not."""
    if len(example.turns) < 2 or example.turns[-1].role != "assistant":
        return ""
    question = folded(example.turns[-2].content)
    answer = folded(example.turns[-1].content)
    if len(answer) >= LEAST_CHARACTERS and answer in question:
        return "the whole answer stands in the question"
    if len(answer) > OPENING_CHARACTERS and answer[:OPENING_CHARACTERS] in question:
        return f"the first {OPENING_CHARACTERS} characters of the answer stand in the question"
    last = answer.split()[-1].strip("\"'`().,;") if answer else ""
    if last and any(last in told for told in TOLD.findall(question)):
        return f"the question tells the answer ({last})"
    return ""
