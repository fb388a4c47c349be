"""Logs that grow, as events: JSONL, lines of output, trainer_state.json, TensorBoard folders.

A feed gives what is new since the last look. Its ``place`` is plain values: with it another process goes on where this one stopped,
and gives the same events again, in the same order, from a place that is older.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import msgspec
from msgspec import Struct, field

from trainbus.bus import events
from trainbus.errors import DataError
from trainbus.sources import tensorboard
from trainbus.sources.histories import exported_event
from trainbus.sources.patterns import LineReader, Memory, Pattern
from trainbus.sources.rows import from_row
from trainbus.sources.tail import Place, Tail

Format: TypeAlias = Literal["jsonl", "lines", "trainer_state", "tensorboard"]
PASSED = (events.Step, events.Eval, events.Sample, events.Metric, events.Phase)
"""Exported events that are given again: what a training says. Commands, alerts and the like were meant for then."""
MAX_MARKS = 64
"""Earlier lengths of a trainer_state.json that are remembered: a training that is resumed goes on from one of them."""
QUIET_SECONDS = 1.0
SUMMARY = "train/train_runtime"
"""A scalar that transformers writes when a training is complete."""
RECORDS = 5_000
"""Records of a TensorBoard file that one look reads."""


class FeedPlace(Struct, kw_only=True):
    """Where a feed stands.

    Args:
        tail: In a file of lines.
        memory: Of the patterns.
        count: Rows so far.
        marks: Of a history that is written anew each time: its length, and a checksum of so many rows.
        files: Bytes read of each event file of a TensorBoard folder.
        finished: The log says that the training is complete.
        bad: Lines that could not be read.
    """

    tail: Place = field(default_factory=Place)
    memory: Memory = field(default_factory=Memory)
    count: int = 0
    marks: list[tuple[int, int]] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    finished: bool = False
    bad: int = 0


class Feed(Protocol):
    """One log."""

    place: FeedPlace

    def look(self) -> list[events.Event]:
        """What is new; not all of it when that is much: look again until nothing comes.

        Raises:
            OSError: It can't be read.
            DataError: It is not what it was taken for.
        """


def feed_of(form: Format, path: Path, place: FeedPlace, patterns: Sequence[Pattern] = ()) -> Feed:
    """A feed of a log, going on from ``place``."""
    if form == "lines":
        return LinesFeed(path, place, patterns)
    if form == "jsonl":
        return JsonlFeed(path, place)
    return TrainerStateFeed(path, place) if form == "trainer_state" else TensorboardFeed(path, place)


def recognise(path: Path) -> Format | None:
    """What a log looks like; None while there is nothing to see."""
    if path.is_dir():
        if state_file(path) is not None:
            return "trainer_state"
        return "tensorboard" if next(path.rglob(tensorboard.PATTERN), None) is not None else None
    if path.name == "trainer_state.json":
        return "trainer_state"
    if not path.exists():
        return None
    return "jsonl" if path.suffix in (".jsonl", ".ndjson") else "lines"


class LinesFeed:
    """Lines of output, by patterns."""

    def __init__(self, path: Path, place: FeedPlace, patterns: Sequence[Pattern]) -> None:
        self.place = place
        self._tail = Tail(path, place.tail, ends=b"\n\r")
        self._reader = LineReader(patterns, memory=place.memory)

    def look(self) -> list[events.Event]:
        """The events of the lines that have come."""
        self._reader.memory.finished = False  # what comes behind an end is no longer finished
        made = [event for line in self._tail.look() for event in self._reader.line(line)]
        self.place.tail, self.place.finished = self._tail.place, self._reader.memory.finished
        return made


class JsonlFeed:
    """Rows of names and numbers, or exported events, one JSON object a line. Other lines are counted and passed over."""

    def __init__(self, path: Path, place: FeedPlace) -> None:
        self.place = place
        self._tail = Tail(path, place.tail)

    def look(self) -> list[events.Event]:
        """The events of the lines that have come."""
        made: list[events.Event] = []
        for line in self._tail.look():
            try:
                made += self._of(json.loads(line))
            except (ValueError, TypeError, KeyError, IndexError, RecursionError, msgspec.ValidationError):
                self.place.bad += 1
        self.place.tail = self._tail.place
        return made

    def _of(self, row: Any) -> Iterable[events.Event]:
        if not isinstance(row, dict):
            raise TypeError("no object")
        if row.get("kind") in events.BY_KIND:
            self.place.finished = row["kind"] == "run_ended"
            event = exported_event(row)
            return [event] if isinstance(event, PASSED) else []
        self.place.count += 1
        return from_row(row, "", self.place.count - 1)


class TrainerStateFeed:
    """transformers' trainer_state.json: the file, or a folder whose newest checkpoint has it. It is written anew with each checkpoint."""

    def __init__(self, path: Path, place: FeedPlace) -> None:
        self.place = place
        self._path = path
        self._seen: tuple[str, int, int] | None = None

    def look(self) -> list[events.Event]:
        """The events of the rows that have been added. A history that is another one from some row on gives its rows from there."""
        file = state_file(self._path) if self._path.is_dir() else self._path
        if file is None or not file.is_file():
            return []
        state = file.stat()
        seen = (str(file), state.st_mtime_ns, state.st_size)
        if seen == self._seen:
            return []
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except events.DECODE_ERRORS:  # it is just being written
            return []
        self._seen = seen
        rows = content.get("log_history") if isinstance(content, dict) else None
        if not isinstance(rows, list):
            return []
        rows = [row for row in rows if isinstance(row, dict)]
        made: list[events.Event] = []
        for number in range(self._known(rows), len(rows)):
            if "train_runtime" not in rows[number]:
                made += from_row(rows[number], "", number)
        self.place.count = len(rows)
        self.place.marks = [mark for mark in self.place.marks if mark[0] < len(rows)][-MAX_MARKS:]
        self.place.marks.append((len(rows), _checksums(rows)[-1]))
        self.place.finished = any("train_runtime" in row for row in rows)
        return made

    def _known(self, rows: list[dict[str, Any]]) -> int:
        """How many of the first rows have been given: the longest earlier history that this one begins with."""
        sums = _checksums(rows)
        return max((count for count, checksum in self.place.marks if count <= len(rows) and sums[count] == checksum), default=0)


class TensorboardFeed:
    """The event files of a folder. The scalars of one step that stand together are one row.

    The last one is whole when the file has not grown for ``quiet`` seconds: writers buffer, and may be in the middle of it.
    """

    def __init__(self, path: Path, place: FeedPlace, quiet: float = QUIET_SECONDS) -> None:
        self.place = place
        self._path = path
        self._quiet = quiet
        self._sizes: dict[str, tuple[int, float]] = {}

    def look(self) -> list[events.Event]:
        """The events of the records that have come."""
        if not self._path.exists():
            return []
        made: list[events.Event] = []
        problem: OSError | DataError | None = None
        for file in sorted(self._path.rglob(tensorboard.PATTERN)) if self._path.is_dir() else [self._path]:
            try:
                made += self._look_into(file)
            except (OSError, DataError) as error:
                problem = error
        if problem is not None and not made:  # what another file gave is given first: its place has moved
            raise problem
        return made

    def _look_into(self, file: Path) -> list[events.Event]:
        name = str(file.relative_to(self._path)) if file != self._path else file.name
        start = self.place.files.get(name, 0)
        size = file.stat().st_size
        if size < start:
            start = 0
        if size == start:
            return []
        now = time.monotonic()
        before = self._sizes.get(name)
        if before is None or before[0] != size:
            before = self._sizes[name] = (size, now)
        still = now - before[1] >= self._quiet
        rows: list[tuple[dict[str, Any], int]] = []
        behind, more = start, False
        with file.open("rb") as stream:
            for number, (body, end) in enumerate(tensorboard.records(stream, file, start)):
                for step, wall, tag, value in tensorboard.scalars(body, file):
                    if not rows or rows[-1][0]["step"] != step:
                        rows.append(({"step": step, "time": wall}, behind))
                    rows[-1][0][tag] = value
                behind = end
                if number >= RECORDS and len(rows) > 1:
                    more = True
                    break
        if rows and (more or not still):
            behind = rows.pop()[1]
        self.place.files[name] = behind
        if rows:
            self.place.finished = any(SUMMARY in row for row, _ in rows)
        return [event for row, _ in rows for event in from_row(_without_summary(row), "", 0)]


def _without_summary(row: dict[str, Any]) -> dict[str, Any]:
    """What transformers adds to the last row when a training is complete is no metric of its last step."""
    if SUMMARY not in row:
        return row
    return {name: value for name, value in row.items() if not name.startswith("train/train_") and name != "train/total_flos"}


def state_file(folder: Path) -> Path | None:
    """The newest trainer_state.json of a folder and its checkpoints; of two that are equally old, that of the higher step."""
    found = [path for path in (folder / "trainer_state.json", *folder.glob("checkpoint-*/trainer_state.json")) if path.is_file()]
    return max(found, key=_age, default=None)


def _age(path: Path) -> tuple[int, int]:
    step = path.parent.name.partition("-")[2]
    return path.stat().st_mtime_ns, int(step) if step.isdigit() else -1


def _checksums(rows: list[dict[str, Any]]) -> list[int]:
    """Of no row, of the first, of the first two, and so on."""
    sums = [0]
    for row in rows:
        sums.append(zlib.crc32(json.dumps(row, sort_keys=True, default=str).encode(), sums[-1]))
    return sums
