"""Durable consumers: cursors, the state committed with them, and dead letters (D6)."""

from __future__ import annotations

from msgspec import structs

from trainbus.bus import wire
from trainbus.bus.broker.intake import MAX_INTEGER
from trainbus.bus.broker.records import CursorRecord, DeadLetterRecord, StateRecord, Tables
from trainbus.errors import RefusedError


class Cursors:
    """What consumers ask for. Changes go into the tables and count when the batch is committed.

    Args:
        tables: The journal's small tables.
        journal: The journal's id, which every `wire.Cursor` names so that a cursor of another journal is noticed.
    """

    def __init__(self, tables: Tables, journal: str) -> None:
        self._cursors = tables.cursors
        self._states = tables.states
        self._letters = tables.dead_letters
        self._journal = journal

    def open(self, request: wire.OpenCursor, head: int, wall: int) -> wire.Cursor:
        """The consumer's cursor with its state; made when it is new.

        Raises:
            RefusedError: ``invalid``: a name or a start that can't be.
        """
        record = self._cursors.get(request.consumer)
        if record is None:
            if not request.consumer:
                raise RefusedError("A consumer needs a name.", hint="Give the subscriber one.", code="invalid")
            offset = -1 if request.start == "beginning" else head if request.start == "now" else request.start
            self._check_offset(offset, head)
            record = CursorRecord(consumer=request.consumer, offset=offset, updated=wall)
            self._cursors.put(record)
        state = {row.key: row.value for row in self._states.values() if row.consumer == request.consumer}
        return structs.replace(self._answer(record, head), state=state)

    def commit(self, request: wire.CommitCursor, head: int, wall: int) -> None:
        """Move the cursor forward and write state.

        A commit for an offset behind the cursor comes from a host that was replaced, or is a late copy: state belongs to its
        offset, so neither is taken.

        Raises:
            RefusedError: ``unknown`` consumer, or ``invalid`` offset.
        """
        record = self._known(request.consumer)
        self._check_offset(request.offset, head)
        if request.offset < record.offset:
            return
        self._cursors.put(structs.replace(record, offset=request.offset, updated=wall))
        for key, value in request.state.items():
            if value is None:
                self._states.drop((request.consumer, key))
            else:
                self._states.put(StateRecord(consumer=request.consumer, key=key, value=value))

    def reset(self, request: wire.ResetCursor, head: int, wall: int) -> wire.Cursor:
        """Set the cursor anywhere.

        Raises:
            RefusedError: ``unknown`` consumer, or ``invalid`` offset.
        """
        record = self._known(request.consumer)
        self._check_offset(request.offset, head)
        record = structs.replace(record, offset=request.offset, updated=wall)
        self._cursors.put(record)
        return self._answer(record, head)

    def drop(self, request: wire.DropCursor) -> None:
        """Forget a consumer; no error when it is unknown."""
        if self._cursors.get(request.consumer) is not None:
            self._cursors.drop(request.consumer)
        for row in self._states.values():
            if row.consumer == request.consumer:
                self._states.drop((row.consumer, row.key))
        for letter in self._letters.values():
            if letter.consumer == request.consumer:
                self._letters.drop((letter.consumer, letter.offset))

    def add_dead_letter(self, request: wire.AddDeadLetter, head: int, wall: int) -> None:
        """Put an event aside for a consumer.

        Raises:
            RefusedError: ``unknown`` consumer, or ``invalid`` offset.
        """
        self._known(request.consumer)
        self._check_offset(request.offset, head)
        attempts = min(max(request.attempts, 0), MAX_INTEGER)
        self._letters.put(
            DeadLetterRecord(consumer=request.consumer, offset=request.offset, attempts=attempts, reason=request.reason, time=wall)
        )

    def dead_letters(self, consumer: str) -> list[wire.DeadLetter]:
        """Dead letters of one consumer, or of all (``""``), oldest event first."""
        rows = sorted((row.offset, row.consumer, row) for row in self._letters.values() if consumer in ("", row.consumer))
        return [
            wire.DeadLetter(consumer=row.consumer, offset=row.offset, attempts=row.attempts, reason=row.reason, time=row.time)
            for _, _, row in rows
        ]

    def listing(self, head: int) -> list[wire.Cursor]:
        """All consumers by name."""
        return [self._answer(record, head) for record in sorted(self._cursors.values(), key=lambda record: record.consumer)]

    def behind(self, offset: int) -> list[CursorRecord]:
        """The consumers that have not finished ``offset``."""
        return [record for record in self._cursors.values() if record.offset < offset]

    def _known(self, consumer: str) -> CursorRecord:
        record = self._cursors.get(consumer)
        if record is None:
            raise RefusedError(f"No consumer is called {consumer!r}.", hint="Open its cursor first.", code="unknown")
        return record

    def _check_offset(self, offset: int, head: int) -> None:
        if not -1 <= offset <= head:
            raise RefusedError(
                f"Offset {offset} is not in this journal.",
                hint=f"Its offsets go from -1 (nothing read) to {head}. Is the offset one of another journal?",
                code="invalid",
            )

    def _answer(self, record: CursorRecord, head: int) -> wire.Cursor:
        letters = sum(1 for row in self._letters.values() if row.consumer == record.consumer)
        return wire.Cursor(
            consumer=record.consumer,
            offset=record.offset,
            journal=self._journal,
            head=head,
            dead_letters=letters,
            updated=record.updated,
        )
