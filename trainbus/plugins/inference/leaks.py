"""Whether a run is trained on what it is examined with: then its results say how well it remembers, not what it has learned."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from trainbus.bus.events import RunStarted
from trainbus.errors import DataError
from trainbus.judging.folding import folded
from trainbus.plugins.inference.exams import Exam
from trainbus.plugins.inference.questions import MAX_LINE_BYTES, Question, parse

READ_BYTES = 1 << 30
"""Of a training file at most so much is read; it takes some seconds beside the training."""
ENDINGS = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
TOLD = 20
"""Ids of questions that an alert names."""


class Leak(Struct, frozen=True):
    """Questions of one set that a training file holds, by their ids."""

    dataset: str
    questions: list[str]


def training_file(event: RunStarted, host: str) -> Path | None:
    """The file that a run was told to train on, when it is one on this machine and can be read line by line."""
    told = event.config.get("data")
    if not isinstance(told, str) or not told or event.host != host or not told.endswith(ENDINGS):
        return None
    path = Path(told)
    path = path if path.is_absolute() else Path(f"/proc/{event.pid}/cwd") / path
    try:
        return path.resolve() if path.is_file() else None
    except (OSError, ValueError):
        return None


def leaks(path: Path, exams: Sequence[Exam]) -> list[Leak]:
    """Which questions stand in a training file: by what they ask, however blanks and case are, or by an id that both name.

    An id that is a plain number is not compared: it counts the rows of its own file. Lines that are no questions are passed over.

    Raises:
        OSError, EOFError, zlib.error: The file can't be read.
    """
    asked: dict[str, list[tuple[Exam, Question]]] = {}
    for exam in exams:
        for question in exam.questions:
            for mark in _marks(question):
                asked.setdefault(mark, []).append((exam, question))
    found: dict[str, dict[str, None]] = {exam.name: {} for exam in exams}
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        while file.tell() < READ_BYTES and (line := file.readline(MAX_LINE_BYTES + 1)):
            try:
                example = parse(line.strip(), path, 0, {})
            except DataError:
                continue
            for mark in _marks(example):
                for exam, question in asked.get(mark, ()):
                    found[exam.name][question.id] = None
    return [Leak(name, list(questions)) for name, questions in found.items() if questions]


def _marks(question: Question) -> list[str]:
    """What two lines of one question have in common."""
    text = question.prompt or question.expected or ""
    marks = [f"text {folded(text)}"] if text else []
    return marks + ([f"id {question.id}"] if question.id and not question.id.isdecimal() else [])
