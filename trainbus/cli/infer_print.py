"""How answers look: piece by piece, in a table with one column for each model, and in JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from msgspec import structs
from rich import box
from rich.table import Table
from rich.text import Text

from trainbus.cli.output import duration, note, number, stdout, table
from trainbus.inferring.asking import Answer
from trainbus.inferring.comparing import Row, Verdict

PROMPT_WIDTH = 40
"""Columns of a terminal that questions may take beside answers."""
CELL_CHARACTERS = 600
"""So much of a text is shown in a table; --json and --output have all of it."""
MARKS = {True: Text("right", style="green"), False: Text("wrong", style="red"), None: Text("")}


class Printer:
    """Writes an answer as it comes. Control characters don't reach a terminal: an answer must not move its cursor or set its title."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = sys.stdout.isatty()
        self._ended = True

    def piece(self, text: str) -> None:
        """A part of the answer."""
        if not self._quiet and text:
            sys.stdout.write(harmless(text) if self._terminal else text)  # click.echo would leave out parts of it in a pipe
            sys.stdout.flush()
            self._ended = text.endswith("\n")

    def end(self) -> None:
        """The answer is whole, or was broken off: the next line begins."""
        if not self._quiet and not self._ended:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._ended = True


def harmless(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(character for character in text if character in "\n\t" or character.isprintable())


def print_statistics(answer: Answer, name: str) -> None:
    """One line about an answer, as far as it is known."""
    speed = answer.tokens_per_second
    parts = [
        name,
        f"{number(answer.completion_tokens)} tokens" if answer.completion_tokens is not None else "",
        duration(answer.seconds),
        f"{speed:,.0f} tokens/s" if speed else "",
        f"first after {duration(answer.first_seconds)}" if answer.first_seconds is not None else "",
        "cut by --max-tokens" if answer.finish_reason == "length" else "",
    ]
    note(" · ".join(part for part in parts if part))


def print_rows(rows: Sequence[Row], labels: Sequence[str]) -> None:
    """A table: a question in each row, a model in each column."""
    expected = any(row.expected is not None for row in rows)
    made = table()
    made.box = box.SIMPLE_HEAD
    made.show_lines = True
    _columns(made, ["question", *(["expected"] if expected else []), *labels])
    for row in rows:
        cells = [Text(_short(row.prompt), style="dim"), *([Text(_short(row.expected or ""))] if expected else [])]
        for said in row.said:
            cell = Text(_short(said.answer))
            if said.finish_reason == "length":
                cell.append(" […]", style="dim")
            if said.right is not None:
                cell.append("\n").append_text(MARKS[said.right])
            cells.append(cell)
        made.add_row(*cells)
    stdout().print(made)


def print_verdict(told: Verdict, labels: Sequence[str], scorer: str) -> None:
    """What comes out of it, in sentences."""
    console = stdout()
    for label, right in zip(labels, told.right, strict=True):
        if told.judged:
            console.print(f"{label}: {right} of {told.judged} right ({right / told.judged:.1%}) by {scorer}", soft_wrap=True)
    if len(labels) != 2:
        return
    console.print(f"the same answer to {told.same} of {told.questions}", soft_wrap=True)
    if told.p_value is not None:
        word = "may be noise" if told.noise else "is no noise"
        console.print(
            f"{labels[1]} gains {told.gained} and loses {told.lost}: the difference {word} (p = {told.p_value:.2g})", soft_wrap=True
        )


def row_document(row: Row, labels: Sequence[str]) -> dict[str, Any]:
    """A row as JSON."""
    said = [{"model": label, **structs.asdict(one)} for label, one in zip(labels, row.said, strict=True)]
    return {"id": row.id, "prompt": row.prompt, "expected": row.expected, "same": row.same, "said": said}


def _columns(made: Table, names: Sequence[str]) -> None:
    for place, name in enumerate(names):
        made.add_column(name, overflow="fold", max_width=PROMPT_WIDTH if place == 0 else None, ratio=None if place == 0 else 1)


def _short(text: str) -> str:
    text = harmless(text.strip())
    return f"{text[: CELL_CHARACTERS - 1]}…" if len(text) > CELL_CHARACTERS else text
