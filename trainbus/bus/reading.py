"""What both subscribers are inside: two sockets, a stream, perhaps a durable cursor. Nothing here blocks: see `trainbus.bus.waiting`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import zmq
from msgspec import Struct

from trainbus.bus import wire
from trainbus.bus.clock import Clock, SystemClock
from trainbus.bus.commits import Commits
from trainbus.bus.dealer import LOOK_SECONDS, Dealer
from trainbus.bus.endpoint import Endpoint
from trainbus.bus.exchange import Ticket
from trainbus.bus.filter import Filter
from trainbus.bus.finder import Finder
from trainbus.bus.handshake import AGAIN_SECONDS
from trainbus.bus.stream import Question, Record, Stream
from trainbus.bus.waiting import Waiting
from trainbus.errors import ConfigError, RefusedError, TrainbusError

HIGH_WATER_MARK = 10_000
"""Fan-out frames that may wait unread; what comes beyond is dropped, and fetched from the journal later."""

CONNECTED_SECONDS = 1.0
"""The longest sleep while both connections stand: news of either, and its end, wake the reader."""

SILENCE_SECONDS = 5.0
"""The broker repeats its head each heartbeat (1 s by default). After a silence of this length the fan-out is connected anew."""

FRAMES_AT_ONCE = 500
"""Frames read before somebody looks at the clock again."""

BUSY = "busy"
"""Code of a broker that has too much to do at the moment: it is asked again after a while."""


class Options(TypedDict, total=False):
    """What a subscriber can be told.

    start: ``"beginning"``, ``"now"``, or an offset: the last event not wanted. With a consumer it counts only when that is new.
    consumer: Name of a durable cursor to go on from, and to move by ``commit``.
    router, xpub: The broker's two addresses; left out, the connection file is followed.
    root: State directory; left out, ``TRAINBUS_HOME`` or the platform's state folder.
    journal: Id of the journal that ``start`` is a place in; another one is refused. Left out, the first one met is adopted.
    high_water_mark: Fan-out frames that may wait unread.
    """

    start: Literal["beginning", "now"] | int
    consumer: str | None
    router: str | None
    xpub: str | None
    root: Path | None
    journal: str
    high_water_mark: int


class SubscriberStats(Struct, frozen=True, kw_only=True):
    """Figures of a subscriber.

    ``position``: everything up to this offset was read; None until the start is known. ``lag``: offsets (of all kinds) between it and
    the head. ``losses``: times that the fan-out had dropped something, ``overflows``: times that live commits outgrew their buffer;
    both were made good from the journal. ``reconnections``: connections lost or moved.
    """

    connected: bool
    journal: str
    position: int | None
    head: int
    lag: int
    delivered: int
    live_events: int
    history_events: int
    pages: int
    losses: int
    overflows: int
    reconnections: int
    commits: int
    uncommitted: bool


class Reading:
    """The sockets, the stream and the cursor of one subscriber. Belongs to one thread (or event loop) at a time.

    Raises:
        ConfigError: The options contradict each other.
    """

    def __init__(
        self,
        kinds: Iterable[str],
        runs: Iterable[str],
        *,
        start: Literal["beginning", "now"] | int = "beginning",
        consumer: str | None = None,
        router: str | None = None,
        xpub: str | None = None,
        root: Path | None = None,
        journal: str = "",
        high_water_mark: int = HIGH_WATER_MARK,
        clock: Clock | None = None,
    ) -> None:
        if router and not xpub:
            hint = "Give both addresses, or none to follow the connection file."
            raise ConfigError(f"router={router!r} was given without xpub.", hint=hint, key="xpub", found=None)
        if start not in ("beginning", "now") and not isinstance(start, int):
            allowed = "'beginning', 'now' or an offset"
            raise ConfigError(
                f"start={start!r} is no place to start from.", hint=f"Allowed: {allowed}.", key="start", found=start, allowed=allowed
            )
        self.choice = Filter(kinds, runs)
        self.clock = clock or SystemClock()
        self.dealer = Dealer(Finder(root, router, xpub), self.clock)
        self.cursor: wire.Cursor | None = None
        self.commits = Commits(consumer) if consumer else None
        self._fanout = Endpoint(zmq.SUB, subscriptions=self.choice.subscriptions(), receive_high_water_mark=high_water_mark)
        self._journal = journal
        self._stream: Stream | None = None
        self._opening: Ticket[wire.Cursor] | None = None
        self._asking: tuple[Question, Ticket[Any]] | None = None
        self._committing: Ticket[None] | None = None
        self._failure: TrainbusError | None = None
        self._ask_at = 0.0
        self._seen = (0, 0)
        self._moves = -1
        self._reconnections = 0
        self._heard = self.clock.now()
        if consumer:
            self._opening = self.dealer.ask(wire.OpenCursor(consumer=consumer, start=start), wire.Cursor)
        else:
            self._stream = Stream(self.choice, start=-1 if start == "beginning" else start, journal=journal)

    # --- waiting ---------------------------------------------------------------------------------

    def ready(self, timeout: float) -> Waiting[bool]:
        """Wait until the place to start from is fixed; False when that was not to be had in time, or no broker runs."""
        begin = self.clock.now()
        while True:
            moved = self.work()
            if self._stream is not None and self._stream.settled:
                return True
            waited = self.clock.now() - begin
            if (
                waited >= timeout
                or (self.dealer.where is None and not moved)
                or (not self.dealer.connected and self.dealer.finder.hopeless())
            ):
                return False
            yield 0 if moved else min(LOOK_SECONDS, timeout - waited)

    def fetch(self, timeout: float | None) -> Waiting[list[Record]]:
        """Wait for events; an empty list when the time is over, or the subscriber was closed."""
        begin = self.clock.now()
        while not self.dealer.closed:
            moved = self.work()
            if self._stream is not None and self._stream.has_ready:
                return self._stream.take()
            waited = self.clock.now() - begin
            if timeout is not None and waited >= timeout and not moved:
                return []
            if not moved:
                pause = CONNECTED_SECONDS if self.dealer.connected and self._fanout.connected else LOOK_SECONDS
                yield pause if timeout is None else min(pause, timeout - waited)
            elif timeout is not None and waited >= timeout + LOOK_SECONDS:
                return []  # a flood of what nobody here wants
        return []

    def settle(self, timeout: float) -> Waiting[bool]:
        """Wait until every commit is acknowledged; False when the time is over."""
        begin = self.clock.now()
        while self.commits is not None and not self.commits.settled:
            moved = self.work()
            waited = self.clock.now() - begin
            if waited >= timeout:
                return self.commits.settled
            if not moved:
                yield min(LOOK_SECONDS, timeout - waited)
        return True

    # --- working ---------------------------------------------------------------------------------

    def work(self) -> bool:
        """Do what can be done now. True when something moved: then there may be more to do.

        Raises:
            TrainbusError: The broker refused, or serves another journal. It is raised again on every later call.
        """
        if self._failure is not None:
            raise self._failure
        if self.dealer.closed:
            return False
        try:
            moved = self.dealer.work()
            self._follow()
            moved = self._listen() or moved
            moved = self._collect() or moved
            return self._ask() or moved
        except TrainbusError as error:
            self._failure = error
            raise

    def _follow(self) -> None:
        """Keep the fan-out where the broker is. Every connection lost or made counts as a gap."""
        now = self.clock.now()
        if self.dealer.where is not None and self.dealer.moves != self._moves:
            self._moves = self.dealer.moves
            self._open_fanout(now)
        broke = self._fanout.watch()
        failed = self._fanout.failed
        if failed is not None and failed.over and self.dealer.connected and now - self._heard > AGAIN_SECONDS:
            self._open_fanout(now)
        if self._fanout.connected and now - self._heard > SILENCE_SECONDS and not self._fanout.waiting():
            self._open_fanout(now)
            broke = True
        seen = (self._fanout.connections, self.dealer.losses)
        if seen != self._seen or broke:
            self._reconnections += broke or seen[1] != self._seen[1]
            self._seen = seen
            self._heard = now
            if self._asking is not None:
                self.dealer.exchange.forget(self._asking[1])
                self._asking = None
            if self._stream is not None:
                self._stream.reconnected()

    def _open_fanout(self, now: float) -> None:
        if self.dealer.where is not None:
            self._fanout.open(self.dealer.where.xpub, self.dealer.finder.secure)
            self._heard = now

    def _listen(self) -> bool:
        for count in range(FRAMES_AT_ONCE):
            frame = self._fanout.receive()
            if frame is None:
                break
            self._heard = self.clock.now() if count == 0 else self._heard
            if self._stream is not None:
                self._stream.frame(frame)
        else:
            return True
        return count > 0

    def _collect(self) -> bool:
        """Hand answers on."""
        moved = False
        if self._opening is not None and self._opening.done:
            self.cursor = self._opening.result()
            self._opening = None
            self._stream = Stream(self.choice, start=self.cursor.offset, journal=self._journal or self.cursor.journal)
            moved = True
        if self._asking is not None and self._asking[1].done and self._stream is not None:
            (question, ticket), self._asking = self._asking, None
            self._answered(self._stream, question, ticket)
            moved = True
        if self._committing is not None and self._committing.done and self.commits is not None:
            ticket, self._committing = self._committing, None
            ticket.result()
            self.commits.done()
            moved = True
        return moved

    def _answered(self, stream: Stream, question: Question, ticket: Ticket[Any]) -> None:
        try:
            stream.answered(question, ticket.result())
        except RefusedError as error:
            if error.facts.get("code") != BUSY:
                raise
            stream.unanswered()
            self._ask_at = self.clock.now() + LOOK_SECONDS

    def _ask(self) -> bool:
        moved = False
        free = self._asking is None and self.clock.now() >= self._ask_at
        if self._stream is not None and free and (question := self._stream.wanted()) is not None:
            result: type[Any] = wire.BrokerStatus if isinstance(question, wire.Status) else wire.Page
            self._asking = (question, self.dealer.ask(question, result))
            moved = True
        if self.commits is not None and self.cursor is not None and (request := self.commits.next()) is not None:
            self._committing = self.dealer.ask(request, type(None))
            moved = True
        return moved

    # --- the rest --------------------------------------------------------------------------------

    def sockets(self) -> Sequence[zmq.Socket[bytes]]:
        """What to watch while waiting."""
        return [*self.dealer.sockets(), *self._fanout.sockets()]

    def close(self) -> None:
        """Disconnect."""
        self.dealer.close()
        self._fanout.close()

    def stats(self, waiting: int, delivered: int) -> SubscriberStats:
        """Figures at this moment, for a subscriber that has handed out ``delivered`` events and holds ``waiting`` more."""
        stream = self._stream.stats() if self._stream is not None else None
        return SubscriberStats(
            connected=self.dealer.connected and self._fanout.connected,
            journal=stream.journal if stream else self._journal,
            position=stream.position if stream else None,
            head=stream.head if stream else -1,
            lag=(stream.lag if stream else 0) + waiting,
            delivered=delivered,
            live_events=stream.live_events if stream else 0,
            history_events=stream.history_events if stream else 0,
            pages=stream.pages if stream else 0,
            losses=stream.losses if stream else 0,
            overflows=stream.overflows if stream else 0,
            reconnections=self._reconnections,
            commits=self.commits.acknowledged if self.commits else 0,
            uncommitted=self.commits is not None and not self.commits.settled,
        )
