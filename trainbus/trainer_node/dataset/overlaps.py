"""Examples that are there twice: within a file, in files that a run was trained on before, and in what it is measured on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from msgspec import Struct

from trainbus.trainer_node.dataset.encoding import Bools, Integers
from trainbus.trainer_node.dataset.fingerprints import EXACT, ID, NORMAL, PROMPT, Fingerprinted

NAMED = 10
"""So many are named; all are counted."""
TRAINED = "trained"
"""In the output of a continuous run: what its weights have seen, a file of numbers for each data file (16 bytes an example)."""
HOW = {EXACT: "the same", NORMAL: "the same but for case and blanks", PROMPT: "the same question", ID: "the same id"}


class Match(Struct, frozen=True):
    """The example of ``line`` is also in ``of_line`` of a file (empty: the same one), and ``how`` alike they are."""

    line: int
    how: str
    of_line: int
    file: str = ""

    def __str__(self) -> str:
        return f"line {self.line} is {self.how} as line {self.of_line}{f' of {self.file}' if self.file else ''}"


class Overlap(Struct, frozen=True):
    """Which examples (indices) are there twice, and the first of them by line."""

    indices: list[int]
    matches: list[Match]

    def __len__(self) -> int:
        return len(self.indices)


def repeated(examples: Fingerprinted) -> Overlap:
    """Examples that an earlier line of the same file holds already, but for case and blanks."""
    _, first, group = np.unique(examples.prints(NORMAL), return_index=True, return_inverse=True)
    origin = first[group]
    indices = np.flatnonzero(origin != np.arange(len(origin)))
    lines, exact = examples.lines, examples.prints(EXACT)
    matches = [Match(int(lines[i]), HOW[EXACT if exact[i] == exact[origin[i]] else NORMAL], int(lines[origin[i]])) for i in indices[:NAMED]]
    return Overlap(indices.tolist(), matches)


def shared(examples: Fingerprinted, others: Fingerprinted, name: str = "") -> Overlap:
    """Examples that others hold, too: the text, the question or the id. What is exactly the same is said to be that.

    Args:
        name: Of the others' file.
    """
    lines, other_lines = examples.lines, others.lines
    how = np.full(len(lines), -1, np.int8)
    for column in (ID, PROMPT, NORMAL, EXACT):
        values = examples.prints(column)
        how[_found_in(np.sort(others.prints(column)), values)[1] & (values != 0)] = column
    indices = np.flatnonzero(how >= 0)
    matches = []
    for index in indices[:NAMED]:
        column = int(how[index])
        found = np.flatnonzero(others.prints(column) == examples.prints(column)[index])[0]
        matches.append(Match(int(lines[index]), HOW[column], int(other_lines[found]), name))
    return Overlap(indices.tolist(), matches)


def remember(output: Path, job: str, name: str, examples: Fingerprinted) -> None:
    """Write down that the weights of this run have seen these examples.

    Raises:
        OSError: It can't be written.
    """
    folder = output / TRAINED
    folder.mkdir(parents=True, exist_ok=True)
    prints = examples.prints(NORMAL)
    order = np.argsort(prints)
    seen = np.stack([prints[order], examples.lines[order].astype(np.uint64)], axis=1)
    partial = folder / f".{job}.{os.getpid()}"
    with partial.open("wb") as file:
        np.save(file, seen)
    partial.replace(folder / f"{job}--{name.removeprefix(f'{job}-')}.npy")


def seen_before(output: Path, examples: Fingerprinted, *, but: str = "") -> Overlap:
    """Examples that this run was trained on in an earlier file. One file at a time is looked at, in mapped memory.

    Args:
        but: A job that does not count: the one that asks.
    """
    prints, lines = examples.prints(NORMAL), examples.lines
    found: dict[int, Match] = {}
    for job, name, seen in _records(output):
        if job == but:
            continue
        places, there = _found_in(seen[:, 0], prints)
        for index in np.flatnonzero(there):
            found.setdefault(int(index), Match(int(lines[index]), HOW[NORMAL], int(seen[places[index], 1]), name))
    indices = sorted(found)
    return Overlap(indices, [found[index] for index in indices[:NAMED]])


def _found_in(ordered: Integers, values: Integers) -> tuple[Integers, Bools]:
    """Where each value stands in an ordered array that is not empty, and whether it does."""
    places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return places, np.asarray(ordered[places] == values, np.bool_)


def _records(output: Path) -> Iterator[tuple[str, str, Integers]]:
    """Job, name of its file, and what it held, of each file that was trained on."""
    for path in sorted((output / TRAINED).glob("*--*.npy")):
        job, _, name = path.name.removesuffix(".npy").partition("--")
        seen = np.load(path, mmap_mode="r")
        if len(seen):
            yield job, name, seen
