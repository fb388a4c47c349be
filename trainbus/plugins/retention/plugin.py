"""The hooks of the retention plugin.

Events only change the book; deleting happens in the timer alone, which is never replayed, and only once every event that the journal
holds for this plugin has been seen: a plugin that catches up must not act on half a history. What the events say is then checked
against the disk, under the exclusive lease.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from trainbus.bus import events
from trainbus.hookspecs import Context, LeaseRefusedError, hookimpl
from trainbus.plugins.retention.config import RetentionConfig
from trainbus.plugins.retention.disk import NotACheckpoint, move_to_trash, recognise, trash_place, vanished
from trainbus.plugins.retention.ledger import Ledger
from trainbus.plugins.retention.policy import Decision, plan
from trainbus.plugins.retention.records import Book, Record
from trainbus.plugins.retention.report import deleted_event, plan_alert
from trainbus.plugins.retention.sweeper import Sweeper

KINDS = ("checkpoint", "eval", "run_started")
OFFSET_KEY = "offset"
PLAN_KEY = "plan/"
CATCHING_UP = 1.0
"""Seconds until the next look while events are still to come."""
LEASE_SECONDS = 30.0
"""Longer than a rename ever takes; a plugin that is killed frees the checkpoint after it."""


class RetentionStats(Struct, frozen=True, kw_only=True):
    """Checkpoints known, deleted, and held back at the last moment by a lease or by what the disk held."""

    known: int
    deleted: int
    leased: int
    refused: int


class RetentionPlugin:
    """Deletes the checkpoints that no policy keeps; in dry run, says which these are.

    Args:
        wall: Nanoseconds since the epoch.
    """

    def __init__(self, wall: Callable[[], int] = time.time_ns) -> None:
        self.config = RetentionConfig()
        self._wall = wall
        self._host = socket.gethostname()
        self._warned: set[str] = set()
        self._deleted = self._leased = self._refused = 0

    @hookimpl
    def config_schema(self) -> type[msgspec.Struct]:
        """``[plugin.retention]``."""
        return RetentionConfig

    @hookimpl
    def start(self, context: Context) -> None:
        """Take the book back and go on with what lies in the trash."""
        self.config = context.config
        self.book = Book(self._host, context.state)
        self.ledger = Ledger(context.directory / "ledger.jsonl")
        self.sweeper = Sweeper(self.ledger, context.logger, self._wall)
        self.sweeper.start()

    @hookimpl
    def stop(self, context: Context) -> None:
        """What is not deleted by now is deleted after the next start."""
        self.sweeper.close()

    @hookimpl
    def on_run_started(self, event: events.RunStarted, context: Context) -> None:
        """Note what the run resumed from."""
        self.book.run_started(event)
        context.state[OFFSET_KEY] = event.offset

    @hookimpl
    def on_checkpoint(self, event: events.Checkpoint, context: Context) -> None:
        """Note a checkpoint's state."""
        self.book.checkpoint(event)
        context.state[OFFSET_KEY] = event.offset

    @hookimpl
    def on_eval(self, event: events.Eval, context: Context) -> None:
        """Note a metric of a checkpoint."""
        self.book.evaluation(event)
        context.state[OFFSET_KEY] = event.offset

    @hookimpl
    async def every(self, context: Context) -> float:
        """Look at what could go; returns the seconds until the next look."""
        async for _ in context.aquery(kinds=KINDS, after=int(context.state.get(OFFSET_KEY, -1))):
            return CATCHING_UP
        self._forget_vanished(context)
        for run, records in self.book.of_runs().items():
            decisions = self._plan(records)
            if self.config.dry_run:
                self._tell(run, decisions, context)
                continue
            self._tell(run, [decision for decision in decisions if decision.keep], context)
            for decision in decisions:
                if not decision.keep:
                    await self._delete(decision, context)
        return self.config.interval

    def stats(self) -> RetentionStats:
        """Counts since this process began."""
        return RetentionStats(known=len(self.book.records), deleted=self._deleted, leased=self._leased, refused=self._refused)

    def _plan(self, records: list[Record]) -> list[Decision]:
        return plan(records, self.config, self._wall(), {record.id: self.book.marks(record) for record in records})

    def _forget_vanished(self, context: Context) -> None:
        """Somebody else deleted it, or we did and were killed before we could say so."""
        for record in [record for record in self.book.records.values() if vanished(record)]:
            reason = self.ledger.why_deleted(record) or "it is no longer on the disk; trainbus did not delete it"
            self.book.forget(record.id)
            context.publish(deleted_event(record, self._host, reason))

    def _tell(self, run: str, decisions: list[Decision], context: Context) -> None:
        """Publish the plan when it is another than the one published last."""
        victims = [decision.record.id for decision in decisions if not decision.keep]
        before = context.state.get(PLAN_KEY + run, [])
        if victims == before:
            return
        context.publish(plan_alert(run, self._host, decisions, known=bool(before)))
        if victims:
            context.state[PLAN_KEY + run] = victims
        else:
            del context.state[PLAN_KEY + run]

    async def _delete(self, decision: Decision, context: Context) -> None:
        record = decision.record
        try:
            place = await asyncio.to_thread(self._trash, decision, context)
        except LeaseRefusedError as refusal:
            self._leased += 1
            context.logger.info("%s is kept for now, it is leased: %s", record.id, refusal)
        except (NotACheckpoint, OSError) as error:
            self._refused += 1
            if record.id not in self._warned:
                self._warned.add(record.id)
                context.logger.warning("%s is kept: %s", record.id, error)
        else:
            if place is not None:
                self._deleted += 1
                self.book.forget(record.id)
                context.publish(deleted_event(record, self._host, decision.reason))
                self.sweeper.add(place)

    def _trash(self, decision: Decision, context: Context) -> Path | None:
        """In a thread. None when an event that came meanwhile gives a reason to keep it."""
        record = decision.record
        with context.lease(record.id, mode="exclusive", reason="retention", ttl=LEASE_SECONDS):
            current = {
                now.record.id: now for now in self._plan([other for other in list(self.book.records.values()) if other.run == record.run])
            }
            if record.id not in current or current[record.id].keep:
                return None
            recognise(record, self.config.roots)
            self.ledger.record("trashing", record, time=self._wall(), reason=decision.reason, trash=str(trash_place(record)))
            return move_to_trash(record, self.config.roots)
