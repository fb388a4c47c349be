"""The look at what could go: plan, check against the disk, act. Called by the timer alone, which is never replayed.

What events say is only the plan. At the moment of action the exclusive lease is held, the plan must still be true, and the disk is
read again: marker, pin, links.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from trainbus.hookspecs import Context, LeaseRefusedError
from trainbus.plugins.retention.config import RetentionConfig
from trainbus.plugins.retention.fates import Fates, Held
from trainbus.plugins.retention.planning import Decision, DiskState, Plan, plan
from trainbus.plugins.retention.protection import LAST_VERIFIED
from trainbus.plugins.retention.recognition import NotACheckpoint, vanished
from trainbus.plugins.retention.records import Book, position
from trainbus.plugins.retention.report import (
    checkpoint_event,
    damaged_alert,
    plan_alert,
)
from trainbus.plugins.retention.returning import comes_back
from trainbus.plugins.retention.storage import Storage, look_at, pinned
from trainbus.plugins.retention.sweeper import Sweeper
from trainbus.plugins.retention.trash import Trash, Trashed
from trainbus.plugins.retention.verifier import Verifier
from trainbus.plugins.retention.watch import Watch

NAME = "retention"
PLAN_KEY = "plan/"
ROOTS_KEY = "roots"
LEASE_SECONDS = 30.0
"""Longer than a rename ever takes; a plugin that is killed frees the checkpoint after it."""
VERIFY_AGAIN_SECONDS = 600.0
"""After a checkpoint could not be read: reading gigabytes again at every look would hurt the training."""

Contents = list[tuple[Trash, Trashed]]


class RetentionStats(Struct, frozen=True, kw_only=True):
    """Checkpoints known, deleted, thinned and restored; held back at the last moment by a lease or by what the disk held; in the trash."""

    known: int
    deleted: int
    thinned: int
    restored: int
    leased: int
    refused: int
    trashed: int


class Outdated(Exception):  # noqa: N818 - not an error: the world went on
    """An event came since the plan was made; it is made again."""


class Keeper:
    """Acts on a book of checkpoints.

    Args:
        config: The settings.
        book: What events told.
        storage: The disks.
        sweeper: Empties the trash.
        verifier: Reads newest checkpoints.
        context: The plugin's.
        wall: Nanoseconds since the epoch.
    """

    def __init__(
        self,
        config: RetentionConfig,
        book: Book,
        storage: Storage,
        sweeper: Sweeper,
        verifier: Verifier,
        context: Context,
        wall: Callable[[], int],
    ) -> None:
        self.config = config
        self.book = book
        self.storage = storage
        self.sweeper = sweeper
        self.verifier = verifier
        self.context = context
        self.fates = Fates(book.host, config, context.state)
        self.watch = Watch(config, book.host, context, wall, self.fates)
        self._wall = wall
        self._held = Held()
        self._warned: set[str] = set()
        self._recovered: set[Path] = set()
        self._ask_again: dict[str, float] = {}
        self._planned = -1
        self._deleted = self._thinned = self._restored = self._leased = self._refused = 0
        for root in context.state.get(ROOTS_KEY, []):
            storage.trash(Path(root))

    def stats(self) -> RetentionStats:
        """Counts since this process began."""
        return RetentionStats(
            known=len(self.book.records),
            deleted=self._deleted,
            thinned=self._thinned,
            restored=self._restored,
            leased=self._leased,
            refused=self._refused,
            trashed=len(self.book.trashed),
        )

    async def look(self, *, act: bool = True) -> bool:
        """One look; False when an event came in between and another look should follow soon.

        Args:
            act: Otherwise nothing goes and nothing comes back: it is only told how things stand.
        """
        self._note_roots()
        await asyncio.to_thread(self._look_at_disks)
        self._take_answers()
        await self._forget_vanished()
        contents = await asyncio.to_thread(self.storage.contents)
        self._forget_emptied(contents)
        act = act and not self.config.dry_run
        if act:
            await self._bring_back(contents)
        disks = await asyncio.to_thread(self.storage.disks, contents)
        made = await self._plan(disks)
        self.watch.look(made, disks, self.book.records.values())
        by_run: dict[str, list[Decision]] = {}
        for decision in made.decisions:
            by_run.setdefault(decision.record.run, []).append(decision)
        for run, decisions in by_run.items():
            self._tell(run, decisions if self.config.dry_run else [each for each in decisions if each.action == "keep"])
        try:
            for decisions in by_run.values() if act else ():
                await self._act(decisions)
        except Outdated:
            return False
        finally:
            if act:
                await asyncio.to_thread(self._empty_due, made, disks)
        await self._tell_fates(made)
        return True

    async def restore(self, trash: Trash, thing: Trashed, reason: str) -> Path:
        """Bring something back from the trash and tell it.

        Raises:
            NotACheckpoint: It is gone, or its place is taken.
            OSError: The disk failed.
        """
        path = await asyncio.to_thread(trash.restore, thing)
        self._restored += 1
        self.book.restored(thing.entry.id)
        record = self.book.records.get(thing.entry.id)
        if thing.thinned and record is not None:
            record.thinned, record.disposable, record.bytes = False, None, (record.bytes or 0) + (thing.entry.bytes or 0)
            self.book.keep(record)
        if record is not None or not thing.thinned:
            self.context.publish(checkpoint_event(record or thing.entry.record(), self.book.host, "complete", reason))
        return path

    # --- what is known -------------------------------------------------------------------------

    def _note_roots(self) -> None:
        for root in {record.path.rpartition("/")[0] for record in self.book.records.values()}:
            self.storage.trash(Path(root))
        roots = sorted(map(str, self.storage.roots()))
        if roots != self.context.state.get(ROOTS_KEY, []):
            self.context.state[ROOTS_KEY] = roots

    def _look_at_disks(self) -> None:
        """In a thread: end what a kill has interrupted, and reserve room for the ledger while there is some."""
        if self.config.dry_run:
            return
        for root in self.storage.roots():
            if root in self._recovered or not root.is_dir():
                continue
            trash = self.storage.trash(root)
            try:
                trash.prepare()
                for path in trash.recover():
                    self.context.logger.warning("%s was pinned while it was being deleted, and is back", path)
                self._recovered.add(root)
            except (NotACheckpoint, OSError) as error:
                self._warn_once(str(root), f"the trash of {root} can't be used: {error}")

    def _take_answers(self) -> None:
        for answer in self.verifier.answers():
            record = self.book.records.get(answer.id)
            if record is None:
                continue
            if answer.error:
                self._ask_again[answer.id] = time.monotonic() + VERIFY_AGAIN_SECONDS
                self._warn_once(answer.id, f"{record.path} can't be verified, so nothing older is deleted: {answer.error}")
            elif answer.faults:
                record.faults = "; ".join(answer.faults[:5])
                self.book.keep(record)
                self.watch.report(damaged_alert(record, self.book.host))
            else:
                record.verified = self._wall()
                self.book.keep(record)

    async def _forget_vanished(self) -> None:
        """Somebody else deleted it, or we did and were killed before we could say so."""
        records = list(self.book.records.values())
        for record in await asyncio.to_thread(lambda: [one for one in records if vanished(one)]):
            if self.book.records.get(record.id) is not record:
                continue  # an event came meanwhile
            entry = self.storage.trash_of(record).why_deleted(record.id)
            reason = entry.reason if entry else "it is no longer on the disk; trainbus did not delete it"
            self.book.trash(record.id)
            self.context.publish(checkpoint_event(record, self.book.host, "deleted", reason))

    def _forget_emptied(self, contents: Contents) -> None:
        left = {thing.entry.id for _, thing in contents if not thing.emptying and not thing.thinned}
        for identity in [identity for identity in self.book.trashed if identity not in left]:
            self.book.forget(identity)

    async def _bring_back(self, contents: Contents) -> None:
        """Only what we took: what a person deleted stays deleted."""
        ours = {
            thing.entry.id: pair for pair in contents if not (thing := pair[1]).emptying and not thing.thinned and thing.entry.who == NAME
        }
        trashed = [record for record in self.book.trashed.values() if record.id in ours]
        forced = {identity for identity, (_, thing) in ours.items() if thing.entry.policy}
        for identity, reason in comes_back(self.book.records.values(), trashed, self.config, forced).items():
            trash, thing = ours[identity]
            try:
                await self.restore(trash, thing, f"restored from the trash: {reason}")
            except (NotACheckpoint, OSError) as error:
                self._warn_once(identity, f"{identity} is {reason}, but can't be restored: {error}")

    # --- the plan ------------------------------------------------------------------------------

    async def _plan(self, disks: Sequence[DiskState]) -> Plan:
        records = list(self.book.records.values())
        if self.config.thin != "never":
            await asyncio.to_thread(lambda: [look_at(record) for record in records])
        marks = self.book.marks(records)
        leases: dict[str, list[str]] = {}
        for lease in await asyncio.to_thread(self.context.held):
            leases.setdefault(lease.resource, []).append(f"{lease.holder}{f': {lease.reason}' if lease.reason else ''}")
        self._held = Held(await asyncio.to_thread(pinned, records), leases)
        for identity, pin in self._held.pins.items():
            marks.setdefault(identity, []).append(pin)
        for identity, holders in leases.items():
            marks.setdefault(identity, []).extend(f"leased by {holder}" for holder in holders)
        self._planned = self.book.version
        return await asyncio.to_thread(plan, records, self.config, self._wall(), marks, disks)

    async def _tell_fates(self, made: Plan) -> None:
        """How things stand after the deed: what went is in the trash by now."""
        contents = await asyncio.to_thread(self.storage.contents)
        decisions = [decision for decision in made.decisions if decision.record.id in self.book.records]
        for event in self.fates.changes(decisions, self._held, contents):
            self.context.publish(event)

    def _tell(self, run: str, decisions: list[Decision]) -> None:
        """Publish the plan when it is another than the one published last."""
        victims = [decision.record.id for decision in decisions if decision.action != "keep"]
        before = self.context.state.get(PLAN_KEY + run, [])
        if victims == before:
            return
        self.context.publish(plan_alert(run, self.book.host, decisions, known=bool(before)))
        if victims:
            self.context.state[PLAN_KEY + run] = victims
        else:
            del self.context.state[PLAN_KEY + run]

    # --- the deed ------------------------------------------------------------------------------

    async def _act(self, decisions: Sequence[Decision]) -> None:
        victims = [decision for decision in decisions if decision.action != "keep"]
        waiting = any(decision.reasons == (LAST_VERIFIED,) for decision in decisions)  # goes once a newer one is verified
        if not (victims or waiting) or not self._newest_is_whole(decisions):
            return
        for decision in victims:
            try:
                thing = await asyncio.to_thread(self._take, decision)
            except LeaseRefusedError as refusal:
                self._leased += 1
                self.context.logger.info("%s is kept for now, it is leased: %s", decision.record.id, refusal)
            except (NotACheckpoint, OSError) as error:
                self._refused += 1
                self._warn_once(decision.record.id, f"{decision.record.id} is kept: {error}")
            else:
                self._took(decision, thing)

    def _newest_is_whole(self, decisions: Sequence[Decision]) -> bool:
        """A new one is read and found whole before an old one goes. What is damaged counts as none, so the one before it is read then."""
        if not self.config.verify:
            return True
        whole = [decision.record for decision in decisions if not decision.record.faults]
        newest = max(whole, key=position, default=None)
        if newest is None or newest.verified:
            return newest is not None
        if time.monotonic() >= self._ask_again.get(newest.id, 0.0):
            self.verifier.ask(newest.id, Path(newest.path))
        return False

    def _take(self, decision: Decision) -> Trashed:
        """In a thread."""
        record, trash = decision.record, self.storage.trash_of(decision.record)
        deadline = time.monotonic() + LEASE_SECONDS / 2
        with self.context.lease(record.id, mode="exclusive", reason=NAME, ttl=LEASE_SECONDS):
            if self.book.version != self._planned:
                raise Outdated
            take = trash.thin if decision.action == "thin" else trash.put
            return take(record, reason=decision.reason, policy=decision.limit, roots=self.config.roots, deadline=deadline)

    def _took(self, decision: Decision, thing: Trashed) -> None:
        record = decision.record
        ours = self.book.version == self._planned
        if decision.action == "thin":
            self._thinned += 1
            record.thinned, record.disposable = True, 0
            record.bytes = (record.bytes or 0) - (thing.entry.bytes or 0)
            self.book.keep(record)
            self.context.publish(checkpoint_event(record, self.book.host, "complete", decision.reasons[0]))
        else:
            self._deleted += 1
            self.book.trash(record.id)
            self.context.publish(checkpoint_event(record, self.book.host, "deleted", decision.reason))
        if ours:  # the change is ours, the rest of the plan is as true as before
            self._planned = self.book.version

    def _empty_due(self, made: Plan, disks: Sequence[DiskState]) -> None:
        """In a thread: what is old enough, and of the oldest as much as the disk floor demands."""
        wanted = dict(made.empty)
        mounts = {directory: disk.name for disk in disks for directory in disk.directories}
        for trash, thing in self.storage.contents():
            mount = mounts.get(str(trash.root), "")
            old = self._wall() - thing.entry.time >= self.config.trash_grace * 1e9
            if thing.emptying or old or wanted.get(mount, 0) > 0:
                wanted[mount] = wanted.get(mount, 0) - (thing.entry.bytes or 0)
                self.sweeper.add(trash, thing)

    def _warn_once(self, about: str, message: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            self.context.logger.warning("%s", message)
