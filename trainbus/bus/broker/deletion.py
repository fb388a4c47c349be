"""Deleting events, a chunk in each transaction, so that taking events in goes on meanwhile."""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

from msgspec import Struct, structs

from trainbus.bus import events, wire
from trainbus.bus.broker.answers import reply
from trainbus.bus.broker.batch import Delete
from trainbus.bus.broker.commands import known_run
from trainbus.bus.broker.cursors import Cursors
from trainbus.bus.broker.draft import Draft
from trainbus.bus.broker.records import Tables
from trainbus.errors import RefusedError

CHUNK = 5_000
"""Events deleted by one transaction: some 50 ms."""


class _RunDeletion(Struct):
    """All events of a run up to the head at the time of asking; then its summary."""

    peer: bytes
    call: int
    run: str
    run_id: int
    upto: int
    deleted: int = 0
    emptied: bool = False


class _Trim(Struct):
    """Events at offsets ``first`` to ``upto``, of one run or of all, because ``cause`` says so. ``call``: somebody waits for it."""

    first: int
    upto: int
    cause: str
    run: str = ""
    run_id: int | None = None
    peer: bytes = b""
    call: int | None = None
    deleted: int = 0
    announced: bool = False


_Job: TypeAlias = _RunDeletion | _Trim


class Deletions:
    """Deletions that were asked for, done one after the other.

    Args:
        tables: The journal's small tables.
        cursors: The consumers, who are told by a gap event what they will never see.
    """

    def __init__(self, tables: Tables, cursors: Cursors) -> None:
        self._tables = tables
        self._cursors = cursors
        self._jobs: deque[_Job] = deque()

    @property
    def waiting(self) -> bool:
        """Whether the next transaction has something to delete."""
        return bool(self._jobs)

    def delete_run(self, peer: bytes, call: int, request: wire.DeleteRun, head: int) -> None:
        """Delete a run; the call is answered when all is gone.

        Raises:
            RefusedError: ``unknown`` run, or one that is ``running`` (without ``force``).
        """
        record = known_run(self._tables.runs.get(request.run), request.run, [row.run for row in self._tables.runs.values()])
        if record.state == "running" and not request.force:
            raise RefusedError(f"Run {request.run} is running.", hint="Stop it first, or delete it by force.", code="running")
        self._jobs.append(_RunDeletion(peer, call, request.run, record.id, head))

    def trim(self, peer: bytes, call: int, request: wire.TrimJournal, head: int) -> None:
        """Delete a part of the history; the call is answered when all is gone.

        Raises:
            RefusedError: ``unknown`` run, or ``invalid`` offsets.
        """
        if not 0 <= request.first <= request.upto <= head:
            problem = f"Offsets {request.first} to {request.upto} are no part of this journal."
            hint = f"Its offsets go from 0 to {head}. Are these of another journal?"
            raise RefusedError(problem, hint=hint, code="invalid")
        job = _Trim(request.first, request.upto, "`trainbus journal trim`", peer=peer, call=call)
        if request.run:
            record = known_run(self._tables.runs.get(request.run), request.run, [row.run for row in self._tables.runs.values()])
            job.run, job.run_id = record.run, record.id
        self._jobs.append(job)

    def retain(self, oldest: int, upto: int, setting: str) -> None:
        """Delete the events from offset ``oldest`` to ``upto`` because of ``setting``. Ignored while the last such deletion goes on."""
        if not any(isinstance(job, _Trim) and job.call is None for job in self._jobs):
            self._jobs.append(_Trim(oldest, upto, setting))

    def next(self, draft: Draft) -> Delete | None:
        """What the transaction of ``draft`` has to delete, with the events and changes that belong to it."""
        job = self._jobs[0] if self._jobs else None
        if isinstance(job, _Trim):
            if not job.announced:
                self._announce(job, draft)
            return Delete(upto=job.upto, limit=CHUNK, run=job.run_id, first=job.first, fold=job.call is not None)
        if isinstance(job, _RunDeletion):
            if not job.emptied:
                return Delete(upto=job.upto, limit=CHUNK, run=job.run_id, fold=True)
            self._forget(job, draft)
        return None

    def committed(self, deleted: int) -> tuple[bytes, wire.Reply] | None:
        """The transaction that `next` was asked for is committed; returns an answer when that finished a call."""
        job = self._jobs[0] if self._jobs else None
        if isinstance(job, _Trim):
            job.announced = True
            job.deleted += deleted
            if deleted < CHUNK:
                self._jobs.popleft()
                return None if job.call is None else (job.peer, reply(job.call, {"events": job.deleted}))
        elif isinstance(job, _RunDeletion):
            if job.emptied:
                self._jobs.popleft()
                return job.peer, reply(job.call, {"events": job.deleted})
            job.deleted += deleted
            job.emptied = deleted < CHUNK
        return None

    def _announce(self, job: _Trim, draft: Draft) -> None:
        """In the same transaction as the first deletion: consumers that have not read what goes get a gap event."""
        for cursor in self._cursors.behind(job.upto):
            first = max(cursor.offset + 1, job.first)
            what = f"what run {job.run} has at offsets" if job.run else "offsets"
            reason = f"consumer {cursor.consumer} had not read {what} {first} to {job.upto} when {job.cause} deleted them"
            draft.make(events.Gap(first_seq=first, last_seq=job.upto, reason=reason))

    def _forget(self, job: _RunDeletion, draft: Draft) -> None:
        """Drop the run's summary, unless it has events that came after the deletion was asked for."""
        tables, newer = self._tables, draft.touches(job.run)
        for topic in tables.topics.values():
            if topic.run == job.run_id:
                if topic.last <= job.upto:
                    tables.topics.drop((topic.run, topic.kind))
                else:
                    newer = True
        record = tables.runs.get(job.run)
        if record is None or record.id != job.run_id:
            return
        if newer:
            tables.runs.put(structs.replace(record, events=max(record.events - job.deleted, 0)))
            return
        tables.runs.drop(job.run)
        for command in tables.commands.values():
            if command.run == job.run:
                tables.commands.drop(command.id)
