"""Trainbus broken on purpose, in a copy of the tree: a matrix that does not fail for these proves nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from tests.conftest import ROOT

COPIED = ("trainbus", "tests")


class Change(NamedTuple):
    """One replacement in a file; the old text must be there exactly once."""

    file: str
    old: str
    new: str


MUTANTS: dict[str, tuple[Change, ...]] = {
    "no-ack": (
        Change(
            "trainbus/bus/broker/loop.py",
            "            return lambda: self._core.commit_failed(batch, refused)\n",
            "            return lambda: self._core.committed(batch, 0)\n",
        ),
    ),
    "no-dedup": (
        Change(
            "trainbus/bus/broker/intake.py",
            "        if message.first + len(message.bodies) <= feed.taken:\n"
            "            return [Send(feed.peer, wire.Ack(source=feed.source, expected=self.expected(feed.source)))]\n"
            "        start = feed.taken - message.first\n",
            "        feed.taken = message.first\n        start = 0\n",
        ),
        Change("trainbus/bus/broker/schema.py", "CREATE UNIQUE INDEX events_by_source", "CREATE INDEX events_by_source"),
    ),
    "cursor-first": (
        Change(
            "trainbus/bus/hosting/serving.py",
            "                await self._deliver(event)\n",
            "                self._fetched = subscriber.stats().position\n                await self._deliver(event)\n",
        ),
        Change(
            "trainbus/bus/hosting/serving.py",
            "        self._staged = (self._delivery.finished, self._state.stage())\n",
            "        fetched = getattr(self, '_fetched', None)\n"
            "        self._staged = (max(self._delivery.finished, -1 if fetched is None else fetched), self._state.stage())\n",
        ),
    ),
    "no-spool": (
        Change("trainbus/bus/spool.py", "        self._allocate = allocate\n", "        self._allocate = _refuse\n"),
        Change(
            "trainbus/bus/spool.py",
            "def spool_root(root: Path)",
            'def _refuse(fd: int, offset: int, length: int) -> None:\n    raise OSError(28, "No space left on device")\n\n\n'
            "def spool_root(root: Path)",
        ),
    ),
}
"""What each breaks: an acknowledgement without a commit; a batch that is taken twice; a cursor that moves before its hook; no spool."""

CAUGHT_BY = {"no-ack": "commit-failure", "no-dedup": "frames", "cursor-first": "kill-plugin", "no-spool": "kill-trainer"}
"""A row that finds each at the latest within a few rounds."""


def copied_tree(tree: Path, *changes: Change) -> Path:
    """The program and its tests at another place, changed."""
    shutil.rmtree(tree, ignore_errors=True)
    for name in COPIED:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for change in changes:
        path = tree / change.file
        text = path.read_text()
        if text.count(change.old) != 1:
            raise ValueError(f"{change.file} has changed: this is there {text.count(change.old)} times, not once:\n{change.old}")
        path.write_text(text.replace(change.old, change.new))
    return tree


def broken_tree(mutant: str, place: Path) -> Path:
    """A copy with one mutant."""
    return copied_tree(place / "mutants" / mutant, *MUTANTS[mutant])
