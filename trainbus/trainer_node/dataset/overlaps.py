"""Examples that are there twice: within a file, in files that a run was trained on before, and in what it is measured on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from msgspec import Struct

from trainbus.trainer_node.dataset.encoding import Bools, Integers
from trainbus.trainer_node.dataset.fingerprints import EXACT, ID, NORMAL, PROMPT, Fingerprints

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


def repeated(prints: Fingerprints, lines: Integers) -> Overlap:
    """Examples that an earlier line of the same file holds already, but for case and blanks."""
    _, first, group = np.unique(prints[:, NORMAL], return_index=True, return_inverse=True)
    origin = first[group]
    indices = np.flatnonzero(origin != np.arange(len(origin)))
    named = indices[:NAMED]
    matches = [
        Match(int(lines[i]), HOW[EXACT if prints[i, EXACT] == prints[origin[i], EXACT] else NORMAL], int(lines[origin[i]])) for i in named
    ]
    return Overlap(indices.tolist(), matches)


def shared(prints: Fingerprints, lines: Integers, other: Fingerprints, other_lines: Integers, name: str = "") -> Overlap:
    """Examples that ``other`` holds, too: the text, the question or the id. What is exactly the same is said to be that."""
    how = np.full(len(prints), -1)
    for column in (ID, PROMPT, NORMAL, EXACT):
        how[np.isin(prints[:, column], other[:, column]) & (prints[:, column] != 0)] = column
    indices = np.flatnonzero(how >= 0)
    matches = []
    for index in indices[:NAMED]:
        found = np.flatnonzero(other[:, how[index]] == prints[index, how[index]])[0]
        matches.append(Match(int(lines[index]), HOW[int(how[index])], int(other_lines[found]), name))
    return Overlap(indices.tolist(), matches)


class Fingerprinted(Protocol):
    """Examples whose fingerprints are known."""

    prints: Fingerprints
    lines: Integers


def remember(output: Path, job: str, name: str, dataset: Fingerprinted) -> None:
    """Write down that the weights of this run have seen these examples.

    Raises:
        OSError: It can't be written.
    """
    folder = output / TRAINED
    folder.mkdir(parents=True, exist_ok=True)
    order = np.argsort(dataset.prints[:, NORMAL])
    seen = np.stack([dataset.prints[order, NORMAL], dataset.lines[order].astype(np.uint64)], axis=1)
    partial = folder / f".{job}.{os.getpid()}"
    with partial.open("wb") as file:
        np.save(file, seen)
    partial.replace(folder / f"{job}--{name.removeprefix(f'{job}-')}.npy")


def seen_before(output: Path, prints: Fingerprints, lines: Integers, *, but: str = "") -> Overlap:
    """Examples that this run was trained on in an earlier file. One file at a time is looked at, in mapped memory.

    Args:
        but: A job that does not count: the one that asks.
    """
    found: dict[int, Match] = {}
    for job, name, seen in _records(output):
        if job == but:
            continue
        places = np.minimum(np.searchsorted(seen[:, 0], prints[:, NORMAL]), len(seen) - 1)
        for index in np.flatnonzero(_equal(seen[places, 0], prints[:, NORMAL])):
            found.setdefault(int(index), Match(int(lines[index]), HOW[NORMAL], int(seen[places[index], 1]), name))
    indices = sorted(found)
    return Overlap(indices, [found[index] for index in indices[:NAMED]])


def _equal(one: Integers, other: Integers) -> Bools:
    return np.asarray(one == other, np.bool_)


def _records(output: Path) -> Iterator[tuple[str, str, Integers]]:
    """Job, name of its file, and what it held, of each file that was trained on."""
    for path in sorted((output / TRAINED).glob("*--*.npy")):
        job, _, name = path.name.removesuffix(".npy").partition("--")
        seen = np.load(path, mmap_mode="r")
        if len(seen):
            yield job, name, seen
