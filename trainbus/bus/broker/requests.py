"""Calls: those that only read are answered at once, those that change the journal with the next batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from trainbus.bus import wire
from trainbus.bus.broker import runs
from trainbus.bus.broker.answers import failure, reply
from trainbus.bus.broker.commands import Commands
from trainbus.bus.broker.cursors import Cursors
from trainbus.bus.broker.deletion import Deletions
from trainbus.bus.broker.draft import Draft
from trainbus.bus.broker.effects import Effect, ReadHistory, Send
from trainbus.bus.broker.intake import MAX_INTEGER
from trainbus.bus.broker.leases import Leases
from trainbus.bus.broker.records import Tables
from trainbus.bus.broker.supervision import Supervision
from trainbus.errors import RefusedError


class _Waiting(Struct):
    peer: bytes
    id: int
    request: Any


class Requests:
    """Hands each request to the part of the broker that knows about it.

    Reads are answered from memory even while the journal can't be written: a person needs `Status` most on a full disk.

    Args:
        tables: The journal's small tables.
        journal: The journal's id.
        new_id: Makes random ids.
        now: Monotonic seconds.
        status: The broker's figures.
    """

    def __init__(
        self, tables: Tables, journal: str, *, new_id: Callable[[], str], now: float, status: Callable[[], wire.BrokerStatus]
    ) -> None:
        self.cursors = Cursors(tables, journal)
        self.leases = Leases(tables.leases, new_id, now)
        self.commands = Commands(tables, new_id)
        self.deletions = Deletions(tables, self.cursors)
        self.supervision = Supervision()
        self._runs = tables.runs
        self._status = status
        self._queue: deque[_Waiting] = deque()

    @property
    def waiting(self) -> bool:
        """Whether calls wait for the next batch."""
        return bool(self._queue)

    def receive(self, peer: bytes, call: wire.Call, head: int, now: float) -> list[Effect]:
        """A call arrived; one that changes something waits for `apply`."""
        request = call.request
        if isinstance(request, wire.History):
            return [ReadHistory(peer, call.id, request, head)]
        if isinstance(request, wire.Supervise):
            return self.supervision.ask(peer, call.id, request, now)
        result: object = None
        if isinstance(request, wire.Status):
            result = self._status()
        elif isinstance(request, wire.Runs):
            result = runs.listing(self._runs.values())
        elif isinstance(request, wire.Consumers):
            result = self.cursors.listing(head)
        elif isinstance(request, wire.DeadLetters):
            result = self.cursors.dead_letters(request.consumer)
        elif isinstance(request, wire.Leases):
            result = self.leases.listing(now)
        elif isinstance(request, wire.Supervisor):
            self.supervision.register(peer, min(max(request.pid, 0), MAX_INTEGER))
        else:
            self._queue.append(_Waiting(peer, call.id, request))
            return []
        return [Send(peer, reply(call.id, result))]

    def apply(self, draft: Draft, head: int, now: float) -> list[tuple[bytes, wire.Reply | wire.Failure]]:
        """Let the waiting calls change the tables; returns the answers to give once the batch is committed."""
        answers: list[tuple[bytes, wire.Reply | wire.Failure]] = []
        for waiting in self._queue:
            try:
                if isinstance(waiting.request, wire.DeleteRun):
                    self.deletions.delete_run(waiting.peer, waiting.id, waiting.request, head)
                elif isinstance(waiting.request, wire.TrimJournal):
                    self.deletions.trim(waiting.peer, waiting.id, waiting.request, head)
                else:
                    answers.append((waiting.peer, reply(waiting.id, self._change(waiting.request, draft, head, now))))
            except RefusedError as error:
                answers.append((waiting.peer, failure(waiting.id, error)))
        self._queue.clear()
        return answers

    def settled(self) -> None:
        """The batch was committed or rolled back."""
        self.leases.settled()
        self.commands.settled()

    def _change(self, request: Any, draft: Draft, head: int, now: float) -> object:
        match request:
            case wire.OpenCursor():
                return self.cursors.open(request, head, draft.wall)
            case wire.ResetCursor():
                return self.cursors.reset(request, head, draft.wall)
            case wire.TakeLease():
                return self.leases.take(request, now)
            case wire.RenewLease():
                return self.leases.renew(request, now)
            case wire.SendCommand():
                return self.commands.send(request, draft)
            case wire.CommitCursor():
                self.cursors.commit(request, head, draft.wall)
            case wire.DropCursor():
                self.cursors.drop(request)
            case wire.AddDeadLetter():
                self.cursors.add_dead_letter(request, head, draft.wall)
            case wire.ReleaseLease():
                self.leases.release(request.id)
            case _:
                raise RefusedError(f"{type(request).__name__} can't be served.", hint="Upgrade the broker.", code="protocol")
        return None
