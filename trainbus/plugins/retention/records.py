"""What is known of the checkpoints on this host: events folded into records, without a look at any disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, MutableMapping
from operator import attrgetter
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, field

from trainbus.bus import events
from trainbus.errors import PluginError

T = TypeVar("T")

RECORD_KEY = "record/"
TRASHED_KEY = "trashed/"
RUN_KEY = "run/"
PENDING_KEY = "pending"
MAX_PENDING = 64
"""Evaluations that name a checkpoint which has not been announced yet."""
PENDING_OFFSET = "\0offset "
"""Stands before the offset of an evaluation among its metrics while it waits for its checkpoint."""
MAX_EVALUATIONS = 64
"""Evaluations of one checkpoint that are told apart; more count as that many."""
MAX_RUNS = 256
"""Runs without any checkpoint left whose marks are remembered."""


class Record(Struct, array_like=True, gc=False):  # it refers to no other object that refers back
    """One complete checkpoint.

    Args:
        evaluations: Which evaluations of it have finished: the offsets of their events, so that a repeated one counts once.
        verified: When all of it was last read and found whole (ns since the epoch); 0 for not yet.
        faults: Why it is not whole; empty while nothing is known against it.
        disposable: Bytes that thinning would free; None where nobody has looked.
        thinned: Whether its optimizer state has been dropped.
    """

    id: str
    run: str
    step: int
    time: int
    path: str
    bytes: int | None = None
    digest: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    evaluations: list[int] = field(default_factory=list)
    verified: int = 0
    faults: str = ""
    disposable: int | None = None
    thinned: bool = False


position: Callable[[Record], tuple[int, int, str]] = attrgetter("step", "time", "id")
"""The order of checkpoints: by step as a number, never by name."""


class RunMarks(Struct, array_like=True):
    """What a run says of its checkpoints: what it resumed from (a checkpoint id, a path, or a run id with a step); paths being
    written."""

    resumed_from: str = ""
    resumed_step: int | None = None
    writing: list[str] = field(default_factory=list)

    def names(self, run: str) -> set[object]:
        """By what the checkpoint can be known that the run (these marks are its) goes on from, which may be another run's."""
        if not self.resumed_from:
            return set()
        return {self.resumed_from, (run, self.resumed_step), (self.resumed_from, self.resumed_step)}


class Book:
    """All records of one host. Every change goes to ``state`` at once, entry by entry, so that it is committed with the cursor.

    Args:
        host: Checkpoints of other hosts are not its business.
        state: Durable small values; what it holds is taken over.

    Raises:
        PluginError: Something of that can't be read.
    """

    def __init__(self, host: str, state: MutableMapping[str, Any]) -> None:
        self.host = host
        self.version = 0  # rises with every change, so that a plan knows whether it is still true
        self._state = state
        self.records: dict[str, Record] = {}
        self.trashed: dict[str, Record] = {}
        self.runs: dict[str, RunMarks] = {}
        for key in list(state):
            if key.startswith(RECORD_KEY):
                self.records[key.removeprefix(RECORD_KEY)] = _kept(key, state[key], Record)
            elif key.startswith(TRASHED_KEY):
                self.trashed[key.removeprefix(TRASHED_KEY)] = _kept(key, state[key], Record)
            elif key.startswith(RUN_KEY):
                self.runs[key.removeprefix(RUN_KEY)] = _kept(key, state[key], RunMarks)
        self._pending: dict[str, dict[str, float]] = dict(state.get(PENDING_KEY, {}))

    def checkpoint(self, event: events.Checkpoint) -> None:
        """A checkpoint is being written, is complete, or is gone."""
        path = event.path.rstrip("/")
        if event.host != self.host or not path:
            return
        if event.state == "deleted":
            self.trash(event.id)  # by id alone: its path may hold, or be about to hold, another one by now
            return
        marks = self.runs.get(event.run, RunMarks())
        marks.writing = [other for other in marks.writing if other != path]
        if event.state == "writing":
            marks.writing = [*marks.writing, path]
        elif event.id:
            self._complete(event, path)
        self._mark(event.run, marks)

    def evaluation(self, event: events.Eval) -> None:
        """A metric that was measured on a checkpoint arrived, perhaps minutes later, perhaps from another machine."""
        if not event.checkpoint:
            return
        found = _finite(event.metrics)
        metrics = found | ({f"{event.dataset}/{name}": value for name, value in found.items()} if event.dataset else {})
        record = self.records.get(event.checkpoint) or self.trashed.get(event.checkpoint)
        if record is not None:
            record.metrics |= metrics
            if event.offset not in record.evaluations:
                record.evaluations = [*record.evaluations, event.offset][-MAX_EVALUATIONS:]
            self.keep(record)
            return
        counted = {**metrics, f"{PENDING_OFFSET}{event.offset}": 0.0}
        self._pending[event.checkpoint] = self._pending.pop(event.checkpoint, {}) | counted
        while len(self._pending) > MAX_PENDING:
            del self._pending[next(iter(self._pending))]
        self._state[PENDING_KEY] = dict(self._pending)

    def run_started(self, event: events.RunStarted) -> None:
        """A new process: what the last one was writing will never be finished."""
        self._mark(event.run, RunMarks((event.resumed_from or "").rstrip("/"), event.resumed_step if event.resumed_from else None))

    def forget(self, checkpoint: str) -> None:
        """The checkpoint is no more, neither in its place nor in the trash."""
        for known, key in ((self.records, RECORD_KEY), (self.trashed, TRASHED_KEY)):
            if known.pop(checkpoint, None) is not None:
                self.version += 1
                del self._state[key + checkpoint]

    def trash(self, checkpoint: str) -> None:
        """The checkpoint left its place. It is remembered: a metric that arrives late may bring it back."""
        record = self.records.get(checkpoint)
        if record is not None:
            self.forget(checkpoint)
            self.trashed[checkpoint] = record
            self.keep(record)

    def restored(self, checkpoint: str) -> None:
        """The checkpoint is in its place again."""
        record = self.trashed.get(checkpoint)
        if record is not None:
            self.forget(checkpoint)
            self.records[checkpoint] = record
            self.keep(record)

    def keep(self, record: Record) -> None:
        """Write a changed record down."""
        self.version += 1
        self._state[(TRASHED_KEY if record.id in self.trashed else RECORD_KEY) + record.id] = msgspec.msgpack.encode(record)

    def of_runs(self) -> dict[str, list[Record]]:
        """Records by run, each in the order of steps."""
        runs: dict[str, list[Record]] = {}
        for record in sorted(self.records.values(), key=position):
            runs.setdefault(record.run, []).append(record)
        return runs

    def marks(self, records: Iterable[Record]) -> dict[str, list[str]]:
        """By id: why a checkpoint must not go whatever the policies say, as far as events tell."""
        writing = {path for marks in self.runs.values() for path in marks.writing}
        resumed: dict[object, list[str]] = {}
        for run, marks in self.runs.items():
            for name in marks.names(run):
                resumed.setdefault(name, []).append(f"run {run} resumed from it")
        found: dict[str, list[str]] = {}
        for record in records:
            reasons = [reason for name in (record.id, record.path, (record.run, record.step)) for reason in resumed.get(name, ())]
            if record.path in writing:
                reasons.append("its directory is being written")
            if reasons:
                found[record.id] = list(dict.fromkeys(reasons))
        return found

    def _complete(self, event: events.Checkpoint, path: str) -> None:
        for other in [record.id for record in self.records.values() if record.path == path and record.id != event.id]:
            self.forget(other)  # its directory was written again, it holds this one now
        known = self.records.get(event.id) or self.trashed.get(event.id)
        self.forget(event.id)
        record = Record(event.id, event.run, event.step, event.time, path, event.bytes, event.digest)
        waited = self._pending.pop(event.id, {})
        offsets = [int(name.removeprefix(PENDING_OFFSET)) for name in waited if name.startswith(PENDING_OFFSET)]
        record.metrics = _finite(event.metrics) | {name: value for name, value in waited.items() if not name.startswith(PENDING_OFFSET)}
        record.evaluations = offsets[-MAX_EVALUATIONS:]
        if known is not None:  # announced again: thinned, restored, or a repeated event
            record.metrics = known.metrics | record.metrics
            record.time, record.thinned, record.evaluations = known.time, known.thinned, known.evaluations
        self._state[PENDING_KEY] = dict(self._pending)
        self.records[record.id] = record
        self.keep(record)

    def _mark(self, run: str, marks: RunMarks) -> None:
        self.version += 1
        self.runs.pop(run, None)
        self.runs[run] = marks
        self._state[RUN_KEY + run] = msgspec.msgpack.encode(marks)
        if len(self.runs) > MAX_RUNS:
            busy = {record.run for record in self.records.values()}
            for idle in [other for other in self.runs if other not in busy][: len(self.runs) - MAX_RUNS]:
                del self.runs[idle]
                del self._state[RUN_KEY + idle]


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    """A NaN is no measure of anything: it would be neither better nor worse than the others."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _kept(key: str, content: Any, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(content, type=kind)
    except (*events.DECODE_ERRORS, TypeError) as error:
        raise PluginError(
            f"What retention keeps under {key!r} in the journal can't be read: {error}.",
            hint="Stop it and forget its state with `trainbus cursors drop`; it then begins anew. Or restore the journal.",
            key=key,
        ) from error
