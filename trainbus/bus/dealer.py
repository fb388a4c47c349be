"""Requests to the broker over one DEALER that follows it wherever it listens. Nothing here blocks: see `trainbus.bus.waiting`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import zmq
from msgspec import Struct

from trainbus.bus import wire
from trainbus.bus.clock import Clock
from trainbus.bus.endpoint import Endpoint
from trainbus.bus.exchange import Exchange, Ticket
from trainbus.bus.finder import Finder
from trainbus.bus.handshake import AGAIN_SECONDS
from trainbus.bus.home import Connection
from trainbus.bus.waiting import Waiting
from trainbus.errors import ConfigError, RefusedError, UnreachableError

T = TypeVar("T")

LOOK_SECONDS = 0.25
"""How often the connection file is looked at, and so the longest sleep."""


class DealerStats(Struct, frozen=True, kw_only=True):
    """``connections`` counts established ones, ``moves`` the times that the broker was found elsewhere."""

    connected: bool
    router: str
    connections: int
    moves: int
    asked: int
    answered: int
    refused: int
    repeated: int
    waiting: int


class Dealer:
    """Requests and answers. Belongs to one thread (or event loop) at a time.

    Args:
        finder: Where the broker is.
        clock: For deadlines.
    """

    def __init__(self, finder: Finder, clock: Clock) -> None:
        self.finder = finder
        self.clock = clock
        self.exchange = Exchange()
        self.where: Connection | None = None
        self.moves = 0
        self.losses = 0
        self.closed = False
        self._endpoint = Endpoint(zmq.DEALER)
        self._look_at = 0.0
        self._opened_at = 0.0

    def ask(self, request: wire.AnyRequest, result: type[T]) -> Ticket[T]:
        """Queue a request; `work` sends it as soon as there is a connection."""
        return self.exchange.ask(request, result)

    def work(self) -> bool:
        """Do what can be done now: follow the broker, send, receive until nothing is left. True when something moved.

        Raises:
            RefusedError: The broker doesn't let this key in.
        """
        if self.closed:
            return False
        self._follow()
        if self._endpoint.watch():
            self._broke()
        failed = self._endpoint.failed
        if failed is not None and failed.refused and self.where is not None:
            hint = "`trainbus keys list` on its machine shows the keys; `trainbus keys invite NAME` there makes a new token."
            raise RefusedError(f"The broker at {self.where.router} does not let us in: {failed.reason}.", hint=hint, code="key")
        # Receiving comes first because it makes libzmq notice new connections, which sending does only now and then, and it comes last
        # because sending may swallow the sign that something can be received.
        moved = self._receive()
        while (frame := self.exchange.outgoing()) is not None and self._endpoint.send(frame):
            self.exchange.sent()
            moved = True
        return self._receive() or moved

    def answer(self, ticket: Ticket[T], timeout: float | None) -> Waiting[T]:
        """Wait for the answer to ``ticket``; None waits for as long as it takes.

        Raises:
            UnreachableError: No answer in time; at once when nothing was ever heard from a broker that is certainly not there.
            RefusedError: The broker refused the request, or (code ``key``) to let us in.
            ProtocolError: The broker speaks another version.
        """
        begin = self.clock.now()
        try:
            while True:
                while self.work():
                    pass
                if ticket.done:
                    return ticket.result()
                if self.closed:
                    raise UnreachableError("The client was closed while it waited for an answer.", hint="Close it after its last request.")
                waited = self.clock.now() - begin
                if timeout is not None and (waited >= timeout or (not self._endpoint.connections and self.finder.hopeless())):
                    reason = self._endpoint.failed.reason if self._endpoint.failed is not None else ""
                    raise self.finder.unreachable(waited, f"asked: {type(ticket.request).__name__}", reason)
                yield LOOK_SECONDS if timeout is None else min(LOOK_SECONDS, timeout - waited)
        finally:
            self.exchange.forget(ticket)

    def call(self, request: wire.AnyRequest, result: type[T], timeout: float | None) -> Waiting[T]:
        """Ask and wait for the answer."""
        return self.answer(self.ask(request, result), timeout)

    def sockets(self) -> Sequence[zmq.Socket[bytes]]:
        """What to watch while waiting."""
        return self._endpoint.sockets()

    def close(self) -> None:
        """Drop the connection and what was not sent."""
        self.closed = True
        self._endpoint.close()

    @property
    def connected(self) -> bool:
        """Whether there is a connection that has shaken hands."""
        return self._endpoint.connected

    def stats(self) -> DealerStats:
        """Figures at this moment."""
        counts: Any = self.exchange.stats()
        return DealerStats(
            connected=self.connected,
            router=self.where.router if self.where else "",
            connections=self._endpoint.connections,
            moves=self.moves,
            asked=counts.asked,
            answered=counts.answered,
            refused=counts.refused,
            repeated=counts.repeated,
            waiting=counts.waiting,
        )

    def _follow(self) -> None:
        now = self.clock.now()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        where = self.finder.look()
        # A file that is gone says nothing new: the old connection stays until another place is named.
        failed = self._endpoint.failed
        again = failed is not None and failed.over and now - self._opened_at >= AGAIN_SECONDS
        if where is None or (where == self.where and not again):
            return
        if self.where is not None and not again:
            self.moves += 1
            self._broke()
        self.where = where
        self._opened_at = now
        try:
            self._endpoint.open(where.router, self.finder.secure)
        except zmq.ZMQError as error:
            hint = "An address looks like tcp://127.0.0.1:5555; `trainbus status` prints the broker's."
            raise ConfigError(
                f"{where.router!r} is no address that can be connected to: {error}.", hint=hint, found=where.router
            ) from error

    def _receive(self) -> bool:
        moved = False
        while (answer := self._endpoint.receive()) is not None:
            self.exchange.received(answer)
            moved = True
        return moved

    def _broke(self) -> None:
        self.losses += 1
        self.exchange.disconnected()
