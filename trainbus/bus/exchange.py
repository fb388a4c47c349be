"""Requests and their answers over one connection, sans-IO: ids, repeats after a broken connection, errors that people can read."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from functools import lru_cache
from typing import Any, Generic, TypeVar, cast

import msgspec
from msgspec import Struct

from trainbus.bus import wire
from trainbus.bus.events import DECODE_ERRORS
from trainbus.errors import ProtocolError, RefusedError, TrainbusError, UnreachableError

T = TypeVar("T")

_NOT_REPEATABLE: tuple[type[wire.Request], ...] = (wire.SendCommand, wire.TakeLease, wire.Supervise, wire.DeleteRun, wire.TrimJournal)
"""Asking these twice does something twice: after a broken connection nobody can know whether they were done."""


class ExchangeStats(Struct, frozen=True, kw_only=True):
    """Counts of requests; ``repeated`` were sent again after a connection had broken."""

    asked: int
    answered: int
    refused: int
    repeated: int
    waiting: int


class Ticket(Generic[T]):
    """One request on its way. ``done`` tells whether `result` has its answer."""

    __slots__ = ("_decoder", "_error", "_result", "done", "frame", "id", "request", "sent")

    def __init__(self, number: int, request: wire.AnyRequest, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self.id = number
        self.request = request
        self.frame = wire.encode(wire.Call(protocol=wire.PROTOCOL, id=number, request=request))
        self.sent = False
        self.done = False
        self._decoder = decoder
        self._result: T | None = None
        self._error: TrainbusError | None = None

    def __repr__(self) -> str:
        state = "done" if self.done else "sent" if self.sent else "waiting"
        return f"Ticket({self.id}, {type(self.request).__name__}, {state})"

    def fail(self, error: TrainbusError) -> None:
        """End with an error."""
        self.done, self._error = True, error

    def complete(self, result: msgspec.Raw) -> None:
        """End with an answer."""
        try:
            self._result = self._decoder.decode(result)
        except DECODE_ERRORS as error:
            hint = "Broker and client are of different versions: install the same trainbus on both sides."
            self._error = ProtocolError(f"The answer to {type(self.request).__name__} can't be read: {error}", hint=hint)
        self.done = True

    def result(self) -> T:
        """The answer of a ticket that is done.

        Raises:
            TrainbusError: What the broker, or the lack of one, made of the request.
        """
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # None is the answer where T is None


class Exchange:
    """The requests of one connection. The driver sends what `outgoing` gives, and hands over what it receives."""

    def __init__(self) -> None:
        self._next_id = 0
        self._outbox: deque[Ticket[Any]] = deque()
        self._sent: dict[int, Ticket[Any]] = {}
        self._answered = self._refused = self._repeated = 0

    def ask(self, request: wire.AnyRequest, result: type[T]) -> Ticket[T]:
        """Queue a request; ``result`` is the type that the request's docstring names."""
        ticket = Ticket(self._next_id, request, _decoder(cast("Hashable", result)))
        self._next_id += 1
        self._outbox.append(ticket)
        return ticket

    def outgoing(self) -> bytes | None:
        """The next frame to send, or None. Call `sent` when it has gone."""
        return self._outbox[0].frame if self._outbox else None

    def sent(self) -> None:
        """The frame that `outgoing` gave is on its way."""
        ticket = self._outbox.popleft()
        ticket.sent = True
        self._sent[ticket.id] = ticket

    def received(self, frame: bytes) -> None:
        """A frame from the broker: answers its ticket. An answer that nobody waits for any more is dropped."""
        try:
            message = wire.decode_message(frame)
        except DECODE_ERRORS as error:
            hint = "Is the address the one of a trainbus broker of this version?"
            self._fail_all(ProtocolError(f"The broker's answer can't be read: {error}", hint=hint))
            return
        if isinstance(message, wire.Reply):
            if ticket := self._sent.pop(message.id, None):
                self._answered += 1
                ticket.complete(message.result)
        elif isinstance(message, wire.Failure):
            refusal = _refusal(message)
            self._refused += 1
            if message.id == -1:
                self._fail_all(refusal)  # the broker could not read one of our messages, nor tell which
            elif ticket := self._sent.pop(message.id, None):
                ticket.fail(refusal)

    def disconnected(self) -> None:
        """The connection broke. What can be asked again is queued again, in the old order; the rest fails: it may have been done."""
        broken, self._sent = list(self._sent.values()), {}
        for ticket in reversed(broken):
            if isinstance(ticket.request, _NOT_REPEATABLE):
                name = type(ticket.request).__name__
                hint = "Look whether it was done before you ask again."
                ticket.fail(UnreachableError(f"The connection broke before the broker answered {name}: it may have been done.", hint=hint))
            else:
                ticket.sent = False
                self._outbox.appendleft(ticket)
                self._repeated += 1

    def forget(self, ticket: Ticket[Any]) -> None:
        """Nobody waits for this ticket any more: it is not sent if it was not yet."""
        if self._sent.pop(ticket.id, None) is None and ticket in self._outbox:
            self._outbox.remove(ticket)

    @property
    def progress(self) -> int:
        """Grows whenever a ticket is done."""
        return self._answered + self._refused

    def stats(self) -> ExchangeStats:
        """Counts since the start."""
        return ExchangeStats(
            asked=self._next_id,
            answered=self._answered,
            refused=self._refused,
            repeated=self._repeated,
            waiting=len(self._outbox) + len(self._sent),
        )

    def _fail_all(self, error: TrainbusError) -> None:
        for ticket in self._sent.values():
            ticket.fail(error)
        self._sent.clear()


def _refusal(failure: wire.Failure) -> TrainbusError:
    if failure.code == "protocol":
        return ProtocolError(failure.problem, hint=failure.hint, code=failure.code, protocol=wire.PROTOCOL)
    return RefusedError(failure.problem, hint=failure.hint, code=failure.code)


@lru_cache(maxsize=64)
def _decoder(result: Hashable) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(cast("type[Any]", result))
