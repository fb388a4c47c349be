"""The data files of a run: where each stands, and when the queue will be done at the pace of those that are."""

from __future__ import annotations

from collections import deque
from itertools import chain
from typing import Any

import msgspec
from msgspec import Struct

from trainbus.bus import events

JOBS = 1_000
"""Files kept for a run; of more, the oldest are forgotten."""

PACE_FILES = 10
"""Finished files whose pace is the pace of the queue, and whose spread is its interval."""

PRIORITIES = ("high", "normal", "low")


class Forecast(Struct, frozen=True):
    """When nothing will wait any more, in nanoseconds since the epoch, at the mean pace of the last finished files, and at the pace of the
    fastest and slowest of them. ``bytes`` are still to do, ``bytes_per_second`` is the mean pace, ``finished`` how many files it is of."""

    files: int
    bytes: int
    bytes_per_second: float
    finished: int
    done: int
    earliest: int
    latest: int


class _Entry(Struct):
    """``worked``: seconds of work on the file that ended; ``since``: when the present work began, 0 when it is not worked on."""

    job: events.Job
    step: int | None = None
    worked: float = 0.0
    since: int = 0

    def seconds(self, now: int) -> float:
        return self.worked + (max(0, now - self.since) / 1e9 if self.since else 0.0)


class QueueBoard:
    """Jobs by their id, in the order in which they came."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._paces: deque[tuple[int, float]] = deque(maxlen=PACE_FILES)

    def apply(self, job: events.Job, step: int | None) -> None:
        """A file changed its state, at ``step`` of the run."""
        key = job.id or job.file
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(job)
            if len(self._entries) > JOBS:
                del self._entries[next(iter(self._entries))]
        if job.state == "processing":
            entry.step = step or 0
            entry.since = entry.since or job.time
        elif entry.since:
            entry.worked, entry.since = entry.seconds(job.time), 0
            if job.state == "completed" and job.bytes and entry.worked > 0:
                self._paces.append((job.bytes, entry.worked))
        entry.job = job

    def rows(self, now: int) -> list[dict[str, Any]]:
        """All files as they came: the fields of the event, the ``step`` at which work on it began, and when it will be ``done``."""
        done = {entry.job.id or entry.job.file: when for entry, when in self._ends(now)}
        return [
            {name: msgspec.to_builtins(getattr(entry.job, name)) for name in entry.job.__struct_fields__}
            | {"kind": "job", "step": entry.step, "done": done.get(key)}
            for key, entry in self._entries.items()
        ]

    def forecast(self, now: int) -> Forecast | None:
        """None while nothing waits, or no file has been finished whose pace could be taken."""
        ends = self._ends(now)
        if not ends:
            return None
        paces = [size / seconds for size, seconds in self._paces]
        left = sum(self._left(entry, now) for entry in self._waiting())
        return Forecast(
            files=len(ends),
            bytes=round(left),
            bytes_per_second=self._pace(),
            finished=len(paces),
            done=ends[-1][1],
            earliest=now + round(left / max(paces) * 1e9),
            latest=now + round(left / min(paces) * 1e9),
        )

    def _ends(self, now: int) -> list[tuple[_Entry, int]]:
        """What is worked on and what waits, in the order in which it will be taken, each with the time at which it will be done."""
        if not self._paces:
            return []
        ends, left = [], 0.0
        for entry in self._waiting():
            left += self._left(entry, now)
            ends.append((entry, now + round(left / self._pace() * 1e9)))
        return ends

    def _waiting(self) -> list[_Entry]:
        """In the order in which the trainer takes them, as far as events tell: the one in work, then by priority; no skipped one."""
        working = [entry for entry in self._entries.values() if entry.since]
        waiting = [entry for entry in self._entries.values() if entry.job.state == "queued"]
        rank = {name: place for place, name in enumerate(PRIORITIES)}
        waiting.sort(key=lambda entry: rank.get(entry.job.priority, 1))
        return list(chain(working, waiting))

    def _pace(self) -> float:
        """Bytes a second over the last finished files together."""
        return sum(size for size, _ in self._paces) / sum(seconds for _, seconds in self._paces)

    def _left(self, entry: _Entry, now: int) -> float:
        """Bytes that are still to do; a file of unknown size counts as the mean one."""
        size = entry.job.bytes or sum(size for size, _ in self._paces) / len(self._paces)
        return max(0.0, size - self._pace() * entry.seconds(now))
