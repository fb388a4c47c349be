"""The queue of data files: what waits, what is being trained on, what became of the rest.

One SQLite file, so every state survives any death, and the command line may edit it while the daemon runs. The states:

    queued → processing → completed
       ↑         ├──────→ failed      (its attempts are used up, or another attempt can't help)
       │         ├──────→ skipped     (a person asked; it is not taken again before a person says `retry`, then at low priority)
       └─────────┴── stopped, crashed with attempts left, or found in processing when the daemon starts
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args
from uuid import uuid4

import msgspec

from trainbus.bus.events import JobState
from trainbus.bus.home import private_directory
from trainbus.errors import RefusedError

Priority: TypeAlias = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
STATES: tuple[JobState, ...] = get_args(JobState)

ALLOWED: dict[JobState, frozenset[JobState]] = {
    "queued": frozenset({"processing", "failed"}),
    "processing": frozenset({"queued", "completed", "failed", "skipped"}),
    "skipped": frozenset({"queued", "failed"}),
    "failed": frozenset({"queued"}),
    "completed": frozenset(),
}
WAITING: tuple[JobState, ...] = ("queued",)
UNFINISHED: tuple[JobState, ...] = ("queued", "processing", "skipped")
"""What of these the weights have seen still counts."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, path TEXT NOT NULL, state TEXT NOT NULL, priority TEXT NOT NULL, place REAL NOT NULL,
    attempts INTEGER NOT NULL, bytes INTEGER NOT NULL, examples INTEGER, reason TEXT NOT NULL,
    added INTEGER NOT NULL, started INTEGER, ended INTEGER, seconds REAL NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS flags (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT
"""
_ORDER = "CASE priority WHEN 'high' THEN 0 WHEN 'normal' THEN 1 ELSE 2 END, place"
_BUSY_SECONDS = 10.0


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One data file. ``added``, ``started`` and ``ended`` are wall clock in ns; ``attempts`` counts those that ended badly.

    ``seconds`` is the work on it so far, all attempts together, without pauses.
    """

    id: str
    name: str
    path: Path
    state: JobState = "queued"
    priority: Priority = "normal"
    place: float = 0.0
    attempts: int = 0
    bytes: int = 0
    examples: int | None = None
    reason: str = ""
    added: int = 0
    started: int | None = None
    ended: int | None = None
    seconds: float = 0.0


class Flag(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a person has said, and that holds until it is taken back, also for the next trainer: who, why and when (ns)."""

    by: str = ""
    reason: str = ""
    time: int = 0
    settings: dict[str, Any] = {}
    command: str = ""
    run: str = ""

    @property
    def since(self) -> str:
        """When it was said, by whom and why, in words."""
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.time / 1e9))
        return f"since {when}{f' by {self.by}' if self.by else ''}{f' ({self.reason})' if self.reason else ''}"


PAUSED, HELD, SETTINGS, INTERVALS = "paused", "held", "settings", "intervals"
"""Flags: training waits; no further file begins; what was set while nothing was trained on, for the next file; intervals that were set
for all of a run."""


def new_id() -> str:
    """An id that sorts by time and is unique on all machines."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid4().hex[:6]}"


class Queue:
    """Safe for several processes. Close it, or use it in a ``with`` block.

    Raises:
        RefusedError: From every change: there is no such job, or it is in a state that does not allow it; nothing has changed then.
    """

    def __init__(self, file: Path) -> None:
        private_directory(file.parent)
        self._db = sqlite3.connect(file, isolation_level=None, timeout=_BUSY_SECONDS)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
        if "seconds" not in {row["name"] for row in self._db.execute("PRAGMA table_info(jobs)")}:  # made by an earlier version
            self._db.execute("ALTER TABLE jobs ADD COLUMN seconds REAL NOT NULL DEFAULT 0")
        self._version = 0
        self.changed_elsewhere()

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def jobs(self, states: Sequence[JobState] = STATES) -> list[Job]:
        """Jobs of these states: the waiting ones in the order in which they will be taken, the others oldest first."""
        marks = ",".join("?" * len(states))
        order = f"{_ORDER}, added" if set(states) <= set(WAITING) else f"{_ORDER}, added" if len(states) == 1 else "added"
        return [_job(row) for row in self._db.execute(f"SELECT * FROM jobs WHERE state IN ({marks}) ORDER BY {order}", states)]

    def find(self, which: str) -> Job:
        """The job with this id, this beginning of an id, or this file name."""
        found = [job for job in self.jobs() if which in (job.id, job.name)] or [job for job in self.jobs() if job.id.startswith(which)]
        if len(found) == 1:
            return found[0]
        what = f"{len(found)} jobs are called {which!r}" if found else f"The queue has no job {which!r}"
        raise RefusedError(f"{what}.", hint="`trainbus queue list --all` shows ids and names.", found=[job.id for job in found])

    def add(self, job: Job) -> Job:
        """Put a job at the end of its priority."""
        with self._change():
            job = msgspec.structs.replace(job, place=self._end(), added=job.added or time.time_ns())
            self._write(job)
        return job

    def take(self) -> Job | None:
        """The next job, now processing; None when none waits."""
        with self._change():
            waiting = self.jobs(WAITING)
            return self._move(waiting[0], "processing", started=time.time_ns(), ended=None) if waiting else None

    def complete(self, job: Job, *, path: Path, examples: int | None) -> Job:
        """All its examples were trained on."""
        return self._end_as(job, "completed", path=path, examples=examples, reason="")

    def fail(self, job: Job, reason: str, *, path: Path) -> Job:
        """No further attempt is made."""
        return self._end_as(job, "failed", path=path, reason=reason, attempts=job.attempts + (job.state == "processing"))

    def put_back(self, job: Job, reason: str, *, attempted: bool = False) -> Job:
        """Wait again, before all others of its priority. ``attempted``: it ended badly, and that counts."""
        with self._change():
            first = self._db.execute("SELECT min(place) FROM jobs").fetchone()[0] or 0.0
            return self._move(job, "queued", reason=reason, place=first - 1.0, attempts=job.attempts + attempted)

    def skip(self, job: Job, reason: str) -> Job:
        """Lay it aside, at the end: it is not taken before `retry`, and then goes on where it stands."""
        with self._change():
            return self._move(job, "skipped", reason=reason, priority="low", place=self._end())

    def check_retry(self, job: Job) -> None:
        """Refuse what `retry` would refuse, before its file is moved."""
        if job.state not in ("failed", "skipped"):
            hint = "Only a failed or skipped job can be taken up again."
            raise RefusedError(f"{job.name} is {job.state}.", hint=hint, found=job.state, allowed="failed, skipped")

    def retry(self, job: Job, *, path: Path) -> Job:
        """A failed or skipped job waits again, with all attempts before it."""
        self.check_retry(job)
        with self._change():
            return self._move(job, "queued", path=path, attempts=0, reason="", place=self._end(), ended=None)

    def prioritise(self, job: Job, priority: Priority) -> Job:
        """Give a waiting job another priority; it goes to that one's end."""
        with self._change():
            return self._edit(job, priority=priority, place=self._end())

    def reorder(self, job: Job, before: Job) -> Job:
        """Put a waiting job right before another one, at that one's priority."""
        with self._change():
            job, before = self._waiting(job), self._waiting(before)
            row = self._db.execute(
                "SELECT max(place) FROM jobs WHERE priority = ? AND place < ? AND id != ?", (before.priority, before.place, job.id)
            ).fetchone()
            below = row[0] if row[0] is not None else before.place - 2.0
            return self._edit(job, priority=before.priority, place=(below + before.place) / 2)

    def remove(self, job: Job) -> Job:
        """Forget a job that is not being trained on; its file is the caller's to deal with."""
        with self._change():
            current = self._current(job)
            if current.state == "processing":
                raise RefusedError(f"{job.name} is being trained on.", hint="Skip it first: `trainbus control skip`.", found="processing")
            self._db.execute("DELETE FROM jobs WHERE id = ?", (job.id,))
            return current

    def recover(self) -> list[Job]:
        """At the daemon's start: what a dead one had in hand waits again, first of its priority."""
        return [self.put_back(job, "the daemon ended while it was being trained on") for job in self.jobs(("processing",))]

    def set_examples(self, job: Job, examples: int) -> None:
        """Its number of examples, known once it was read."""
        self._db.execute("UPDATE jobs SET examples = ? WHERE id = ?", (examples, job.id))

    def worked(self, job: Job, seconds: float) -> Job:
        """So much more time has gone into a job."""
        with self._change():
            current = self._current(job)
            return self._write(msgspec.structs.replace(current, seconds=current.seconds + seconds))

    def flag(self, name: str) -> Flag | None:
        """What somebody has said; None when nobody has, or it was taken back."""
        row = self._db.execute("SELECT value FROM flags WHERE name = ?", (name,)).fetchone()
        return None if row is None else msgspec.json.decode(row["value"], type=Flag)

    def set_flag(self, name: str, flag: Flag | None) -> None:
        """Say it, or take it back with None."""
        if flag is None:
            self._db.execute("DELETE FROM flags WHERE name = ?", (name,))
        else:
            self._db.execute("INSERT OR REPLACE INTO flags VALUES (?, ?)", (name, msgspec.json.encode(flag).decode()))

    def changed_elsewhere(self) -> bool:
        """Whether another process has changed the queue since the last call."""
        before, self._version = self._version, int(self._db.execute("PRAGMA data_version").fetchone()[0])
        return before != self._version

    # -- one transaction each

    @contextmanager
    def _change(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _end_as(self, job: Job, state: JobState, **changes: object) -> Job:
        with self._change():
            return self._move(job, state, ended=time.time_ns(), **changes)

    def _move(self, job: Job, state: JobState, **changes: object) -> Job:
        current = self._current(job)
        if state not in ALLOWED[current.state]:
            allowed = ", ".join(sorted(ALLOWED[current.state])) or "nothing: it is done"
            raise RefusedError(
                f"{job.name} is {current.state} and can't become {state}.",
                hint=f"It can become: {allowed}.",
                found=current.state,
                allowed=allowed,
            )
        return self._write(msgspec.structs.replace(current, state=state, **changes))

    def _edit(self, job: Job, **changes: object) -> Job:
        return self._write(msgspec.structs.replace(self._waiting(job), **changes))

    def _waiting(self, job: Job) -> Job:
        current = self._current(job)
        if current.state not in WAITING:
            raise RefusedError(
                f"{job.name} is {current.state}.", hint="Only jobs that wait can be moved.", found=current.state, allowed=list(WAITING)
            )
        return current

    def _current(self, job: Job) -> Job:
        row = self._db.execute("SELECT * FROM jobs WHERE id = ?", (job.id,)).fetchone()
        if row is None:
            raise RefusedError(f"{job.name} is not in the queue any more.", hint="`trainbus queue list` shows what is.")
        return _job(row)

    def _write(self, job: Job) -> Job:
        fields = {**msgspec.structs.asdict(job), "path": str(job.path)}
        marks = ",".join(f":{name}" for name in fields)
        self._db.execute(f"INSERT OR REPLACE INTO jobs ({','.join(fields)}) VALUES ({marks})", fields)
        return job

    def _end(self) -> float:
        return float(self._db.execute("SELECT coalesce(max(place), 0.0) + 1.0 FROM jobs").fetchone()[0])


def _job(row: sqlite3.Row) -> Job:
    return Job(**{**dict(row), "path": Path(row["path"])})
