"""A file as a training would find it: read once, in a stream, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from msgspec import Struct

from trainbus.errors import DataError
from trainbus.trainer_node.dataset.answers import answer_in_question
from trainbus.trainer_node.dataset.fingerprints import Fingerprints
from trainbus.trainer_node.dataset.overlaps import Match, repeated, seen_before, shared
from trainbus.trainer_node.dataset.reading import Reading
from trainbus.trainer_node.dataset.source import LISTED_LINES, Rejected, Source
from trainbus.trainer_node.dataset.statistics import Lengths

Level: TypeAlias = Literal["quick", "standard", "deep"]
"""How much is looked at: the first rows alone; every row, also beside the others; and every row's tokens, too."""


class Told(Struct, frozen=True):
    """An example whose question holds its answer."""

    line: int
    how: str


class Inspection(Struct, kw_only=True):
    """What was found. Counts are whole; lists name the first. ``problem``: why the file can't be used at all.

    ``repeated``: an earlier line holds it already; ``leaked``: the evaluation set does; ``trained``: a file that the run was trained on
    before does. ``tokens`` is there when a tokenizer was given.
    """

    file: str
    ok: bool
    level: Level = "standard"
    format: str = ""
    examples: int = 0
    bytes: int = 0
    problem: str = ""
    hint: str = ""
    rejected: list[Rejected] = []
    repeated: int = 0
    leaked: int = 0
    trained: int = 0
    told: int = 0
    matches: list[Match] = []
    answers: list[Told] = []
    tokens: Lengths | None = None


NAMED_ANSWERS = 10
QUICK_ROWS = 1_000
"""A quick look is at so many rows."""


def glance(path: Path, reading: Reading) -> str:
    """Why a file can't be trained on, as far as its beginning tells; empty when it may be. Cheap, however large the file is.

    What only some lines suffer from is left to the training, which may leave such lines out.
    """
    source = Source(str(path), reading, tolerant=True, most=QUICK_ROWS)
    try:
        for _ in source:
            return ""
    except DataError as error:
        return f"{error.problem} {error.hint}".strip()
    return ""


def fingerprints_of(name: str, reading: Reading = Reading()) -> Fingerprints:  # noqa: B008 - frozen
    """Of all examples of a file.

    Raises:
        DataError: It can't be used.
    """
    found = Fingerprints()
    for example in Source(name, reading):
        found.add(example)
    return found


def inspect(
    name: str,
    reading: Reading = Reading(),  # noqa: B008 - frozen
    *,
    level: Level = "standard",
    against: Fingerprints | None = None,
    against_name: str = "",
    output: Path | None = None,
) -> Inspection:
    """Read a file as a training would. What is wrong with it is said, not raised.

    Args:
        level: As `Level`; ``deep`` is what ``standard`` is here: tokens are counted by who has a tokenizer.
        against: The evaluation set, of the file ``against_name``.
        output: Of a continuous run: what it was trained on before counts.
    """
    path = Path(name).expanduser()
    found = Inspection(file=name, ok=False, level=level, bytes=path.stat().st_size if path.is_file() else 0)
    quick = level == "quick"
    prints = Fingerprints()

    def reject(one: Rejected) -> None:
        if len(found.rejected) < LISTED_LINES:
            found.rejected.append(one)

    try:
        source = Source(name, reading, tolerant=True, most=QUICK_ROWS if quick else None, reject=reject)
        for example in source:
            if quick:
                continue
            prints.add(example)
            if how := answer_in_question(example):
                found.told += 1
                if found.told <= NAMED_ANSWERS:
                    found.answers.append(Told(example.line, how))
    except DataError as error:
        found.problem, found.hint, found.rejected = error.problem, error.hint, []
        return found
    found.ok, found.format, found.examples = not found.rejected, source.format, source.examples
    if quick:
        return found
    within = repeated(prints)
    found.repeated, found.matches = len(within), list(within.matches)
    if against is not None:
        leaks = shared(prints, against, against_name)
        found.leaked, found.matches = len(leaks), found.matches + leaks.matches
    if output is not None:
        before = seen_before(output, prints)
        found.trained, found.matches = len(before), found.matches + before.matches
    return found
