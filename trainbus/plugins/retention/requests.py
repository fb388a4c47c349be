"""What people ask for through the bus, from the dashboard or from another machine: pin, unpin, restore.

A command is obeyed when it arrives. After a crash it comes again, and whoever reads the journal from its beginning meets those of last
year: what has its answer already, or waits for too long for anybody to wait with it, is not obeyed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from trainbus.bus.events import Checkpoint, Command, CommandResult, CommandState
from trainbus.errors import TrainbusError
from trainbus.hookspecs import Context, LeaseRefusedError
from trainbus.plugins.retention.keeper import LEASE_SECONDS, NAME, Keeper
from trainbus.plugins.retention.pins import Pin, pin, unpin
from trainbus.plugins.retention.records import Record
from trainbus.plugins.retention.verify import verify

VERBS = ("pin", "unpin", "restore")
WAIT_SECONDS = 600.0
"""An older command is refused: who asked has turned to something else, and may have asked again."""


class Declined(Exception):  # noqa: N818 - an answer
    """It can't be done, and why."""


class Requests:
    """Obeys commands.

    Args:
        keeper: Knows the checkpoints.
        context: The plugin's.
        wall: Nanoseconds since the epoch.
    """

    def __init__(self, keeper: Keeper, context: Context, wall: Callable[[], int]) -> None:
        self._keeper = keeper
        self._context = context
        self._wall = wall

    async def obey(self, command: Command) -> bool:
        """Do what is asked and answer; False when it is for others, or was done before."""
        if command.plugin != NAME or await self._answered(command):
            return False
        checkpoint = str(command.arguments.get("checkpoint", ""))
        if not self._known(checkpoint) and await self._is_elsewhere(command, checkpoint):
            return False
        try:
            path = await self._do(command, checkpoint)
        except Declined as why:
            self._answer(command, "refused", str(why))
        except (TrainbusError, LeaseRefusedError, OSError) as error:
            self._answer(command, "refused", error.problem if isinstance(error, TrainbusError) else str(error))
        else:
            self._answer(command, "done", "", checkpoint=checkpoint, path=str(path))
        return True

    async def _answered(self, command: Command) -> bool:
        async for event in self._context.aquery(kinds=["command_result"], runs=[command.run], after=command.offset):
            if isinstance(event, CommandResult) and event.command == command.id and event.state != "accepted":
                return True
        return False

    def _known(self, checkpoint: str) -> bool:
        return checkpoint in self._keeper.book.records or checkpoint in self._keeper.book.trashed

    async def _is_elsewhere(self, command: Command, checkpoint: str) -> bool:
        """Whether another machine has it: the plugin there answers."""
        async for event in self._context.aquery(kinds=["checkpoint"], runs=[command.run], upto=command.offset):
            if isinstance(event, Checkpoint) and event.id == checkpoint:
                return event.host != self._keeper.book.host
        return False

    async def _do(self, command: Command, checkpoint: str) -> Path:
        if self._wall() - command.time > WAIT_SECONDS * 1e9:
            raise Declined(f"nobody was there to do it within {WAIT_SECONDS / 60:.0f} minutes; ask again")
        if command.verb not in VERBS:
            raise Declined(f"retention knows no {command.verb!r}; it knows {', '.join(VERBS)}")
        if not checkpoint:
            raise Declined("it names no checkpoint")
        mark = Pin(who=command.requested_by, why=command.reason or "restored" * (command.verb == "restore"), time=self._wall())
        if command.verb == "restore":
            return await self._restore(checkpoint, mark if command.arguments.get("pin", True) else None, command.requested_by)
        record = self._keeper.book.records.get(checkpoint)
        if record is None:
            gone = "lies in the trash: restore it first" if self._known(checkpoint) else "is not known here"
            raise Declined(f"{checkpoint} {gone}")
        return await asyncio.to_thread(self._pin if command.verb == "pin" else self._unpin, record, mark)

    def _pin(self, record: Record, mark: Pin) -> Path:
        """In a thread. Under a lease: another process may be about to delete it."""
        with self._context.lease(record.id, mode="shared", reason="pin", ttl=LEASE_SECONDS):
            pin(Path(record.path), mark)
        return Path(record.path)

    def _unpin(self, record: Record, _: Pin) -> Path:
        unpin(Path(record.path))
        return Path(record.path)

    async def _restore(self, checkpoint: str, mark: Pin | None, who: str) -> Path:
        found = await asyncio.to_thread(self._keeper.storage.find, checkpoint)
        if found is None:
            raise Declined(f"the trash does not hold {checkpoint}")
        trash, thing = found
        if not thing.thinned:
            faults = (await asyncio.to_thread(verify, thing.place, contents=False)).faults
            if faults:
                raise Declined(f"it is not whole: {'; '.join(faults[:3])}")
        if mark is not None:  # before it is back: nothing can take it in between
            await asyncio.to_thread(pin, Path(thing.entry.path) if thing.thinned else thing.place, mark)
        return await self._keeper.restore(trash, thing, f"restored from the trash by {who or 'a command'}")

    def _answer(self, command: Command, state: CommandState, reason: str, **result: str) -> None:
        self._context.publish(
            CommandResult(run=command.run, command=command.id, verb=command.verb, state=state, reason=reason, result=dict(result))
        )
