"""The conversation of one source with the broker, without I/O: messages, connection events and time in; messages out.

    offline --connected--> greeting: Hello, again with growing pauses --Welcome--> ready: Events, Skipped, Beat, at last Bye
       ^                        ^                                                    |
       +------disconnected------+------no Ack for a while, or a Failure--------------+

The order of events and holes is that of the seqs. What is sent stays in the outbox until it is acknowledged; after every Welcome
sending goes on from where the broker is. Sending twice is harmless: the broker takes each (source, seq) once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from math import inf
from typing import NamedTuple, Protocol

import msgspec

from trainbus.bus import events, wire
from trainbus.bus.outbox import Hole

HELLO_PAUSE, HELLO_PAUSE_MAX = 0.25, 5.0
"""Seconds between two Hellos that nobody answers; doubles."""
ACK_TIMEOUT, ACK_TIMEOUT_MAX = 2.0, 30.0
"""Seconds without any progress after which the broker is greeted again; doubles while that doesn't help."""
ECHO_SECONDS = 0.25
"""A Rewind to a batch that was sent this recently answers an older one: the new copy is on its way."""
REFUSED_PAUSE = 30.0
"""Seconds until the next Hello after the broker refused us (another protocol version, ...)."""
WINDOW_MESSAGES = 16
"""Unacknowledged messages: far below the socket's high-water mark of 1,000, enough for 32,000 events within one commit."""
WINDOW_BYTES = 8 * wire.MAX_BATCH_BYTES
REMEMBERED_COMMANDS = 1_000
"""Command ids kept to recognise repeated deliveries."""


class State(Enum):
    """Where a link is in its conversation."""

    OFFLINE = "offline"
    GREETING = "greeting"
    READY = "ready"


class Source(Protocol):
    """What the link needs of an outbox."""

    @property
    def next(self) -> int:
        """The seq after the last one published."""

    def take(self, seq: int, events: int, size: int) -> list[bytes] | Hole:
        """Bodies from ``seq`` on, or the hole that begins there."""

    def acknowledge(self, expected: int) -> None:
        """Everything below ``expected`` is committed."""


class Sent(NamedTuple):
    """An unacknowledged message: seqs ``first`` to ``next - 1``."""

    first: int
    next: int
    bytes: int
    at: float


class LinkStats(msgspec.Struct, frozen=True, kw_only=True):
    """A link's figures. ``acknowledged`` and ``sent`` name the seq after the last one, in the present journal."""

    state: str
    journal: str
    acknowledged: int
    sent: int
    in_flight: int
    greetings: int
    rewinds: int
    timeouts: int
    problem: str


class Link:
    """One source's state machine.

    Args:
        hello: How the source introduces itself.
        outbox: Where its events are.
        beat: Makes a sign of life; None for a source that needs none (a drained spool).
        heartbeat_interval: Seconds between signs of life.
        on_command: Gets each command once, however often it is delivered.
    """

    def __init__(
        self,
        hello: wire.Hello,
        outbox: Source,
        *,
        beat: Callable[[], wire.Beat] | None = None,
        heartbeat_interval: float = 1.0,
        on_command: Callable[[events.Command], None] | None = None,
    ) -> None:
        self.state = State.OFFLINE
        self.problem = ""
        """Why the broker refuses us; empty while it doesn't."""
        self._hello = hello
        self._outbox = outbox
        self._beat = beat
        self._heartbeat_interval = heartbeat_interval
        self._on_command = on_command
        self._journal = ""
        self._acknowledged = 0
        self._cursor = 0
        self._window: deque[Sent] = deque()
        self._window_bytes = 0
        self._progress_at = 0.0
        self._ack_timeout = ACK_TIMEOUT
        self._hello_at = inf
        self._hello_pause = HELLO_PAUSE
        self._beat_at = inf
        self._leaving = self._said_bye = False
        self._commands: dict[str, None] = {}
        self._greetings = self._rewinds = self._timeouts = 0

    def __repr__(self) -> str:
        progress = f"{self._acknowledged} acknowledged, {self._cursor} sent, {self._outbox.next} published"
        return f"<Link {self._hello.source} {self.state.value}, {progress}>"

    @property
    def settled(self) -> bool:
        """Everything published so far is committed in the journal that we talk to."""
        return self.state is State.READY and self._acknowledged >= self._outbox.next

    @property
    def said_bye(self) -> bool:
        """The farewell is sent."""
        return self._said_bye

    @property
    def crowded(self) -> bool:
        """No more events may be sent before an acknowledgement comes."""
        return not self._window_is_open()

    def leave(self) -> None:
        """Say Bye as soon as everything is acknowledged."""
        self._leaving = True

    def connected(self, now: float) -> None:
        """A connection stands (again)."""
        self._hello_pause = HELLO_PAUSE
        self._greet(now)

    def disconnected(self, now: float) -> None:
        """The connection is gone, and with it what was on its way."""
        self.state = State.OFFLINE
        self._hello_at = self._beat_at = inf
        self._rewind(self._acknowledged)

    def receive(self, message: wire.AnyMessage, now: float) -> None:
        """Take in one message; those for others, or of no use in the present state, change nothing."""
        if isinstance(message, wire.Ack):
            if message.source == self._hello.source and self.state is State.READY:
                self._acknowledge(message.expected, now)
        elif isinstance(message, wire.Welcome):
            if message.source == self._hello.source and self.state is not State.OFFLINE:
                self._welcome(message, now)
        elif isinstance(message, wire.Rewind):
            if message.source == self._hello.source and self.state is State.READY:
                self._rewind_to(message.expected, now)
        elif isinstance(message, wire.Deliver):
            self._deliver(message)
        elif isinstance(message, wire.Failure):
            self.problem = message.problem or message.code
            if self.state is not State.OFFLINE:
                # "hello": the broker does not know us (any more), which a greeting mends; anything else it will say again.
                self._greet(now if message.code == "hello" else now + REFUSED_PAUSE)

    def poll(self, now: float, *, flush: bool = True) -> wire.Message | None:
        """The next message to send now, or None. Call it again until it gives None, but only while the socket takes messages.

        Without ``flush`` an incomplete batch waits.
        """
        if self.state is State.READY and self._window and now >= self._give_up_at():
            self._timeouts += 1
            self._ack_timeout = min(2 * self._ack_timeout, ACK_TIMEOUT_MAX)
            self._greet(now)
        if self.state is State.GREETING and now >= self._hello_at:
            self._hello_at = now + self._hello_pause
            self._hello_pause = min(2 * self._hello_pause, HELLO_PAUSE_MAX)
            self._greetings += 1
            return self._hello
        if self.state is not State.READY:
            return None
        if self._beat is not None and now >= self._beat_at:
            self._beat_at = now + self._heartbeat_interval
            return self._beat()
        waiting = self._outbox.next - self._cursor
        if waiting > 0 and (flush or waiting >= wire.MAX_BATCH_EVENTS) and self._window_is_open():
            return self._send_next(now)
        if self._leaving and not self._said_bye and self.settled:
            self._said_bye = True
            return wire.Bye(source=self._hello.source)
        return None

    def wake_at(self) -> float:
        """When `poll` has something to say even if nothing happens until then; infinity when never."""
        if self.state is State.GREETING:
            return self._hello_at
        if self.state is State.READY:
            return min(self._beat_at, self._give_up_at() if self._window else inf)
        return inf

    def stats(self) -> LinkStats:
        """The figures of now."""
        return LinkStats(
            state=self.state.value,
            journal=self._journal,
            acknowledged=self._acknowledged,
            sent=self._cursor,
            in_flight=len(self._window),
            greetings=self._greetings,
            rewinds=self._rewinds,
            timeouts=self._timeouts,
            problem=self.problem,
        )

    def _greet(self, at: float) -> None:
        self.state = State.GREETING
        self._hello_at = at
        self._beat_at = inf
        self._rewind(self._acknowledged)

    def _welcome(self, message: wire.Welcome, now: float) -> None:
        if message.protocol != wire.PROTOCOL:
            self.problem = f"the broker speaks protocol {message.protocol}, this process {wire.PROTOCOL}"
            self._greet(now + REFUSED_PAUSE)
            return
        if self.state is State.READY and message.journal == self._journal:  # the answer to a Hello that we repeated too early
            self._acknowledge(message.expected, now)
            return
        self.problem = ""
        self.state = State.READY
        self._journal = message.journal
        self._hello_pause = HELLO_PAUSE
        self._beat_at = now if self._beat is not None else inf
        self._progress_at = now
        self._acknowledged = message.expected
        self._rewind(message.expected)
        self._outbox.acknowledge(message.expected)

    def _acknowledge(self, expected: int, now: float) -> None:
        if expected <= self._acknowledged:
            return
        self._acknowledged = expected
        self._cursor = max(self._cursor, expected)
        self._progress_at = now
        self._ack_timeout = ACK_TIMEOUT
        while self._window and self._window[0].next <= expected:
            self._window_bytes -= self._window.popleft().bytes
        self._outbox.acknowledge(expected)

    def _rewind_to(self, expected: int, now: float) -> None:
        for sent in self._window:
            if sent.first == expected and now - sent.at < ECHO_SECONDS:
                return
        self._rewinds += 1
        self._rewind(expected)

    def _rewind(self, expected: int) -> None:
        """Send on from ``expected``; forget what was sent of it, and above it."""
        self._cursor = expected
        while self._window and self._window[-1].next > expected:
            self._window_bytes -= self._window.pop().bytes

    def _window_is_open(self) -> bool:
        return len(self._window) < WINDOW_MESSAGES and self._window_bytes < WINDOW_BYTES

    def _give_up_at(self) -> float:
        return max(self._window[0].at, self._progress_at) + self._ack_timeout

    def _send_next(self, now: float) -> wire.Message:
        first, source = self._cursor, self._hello.source
        taken = self._outbox.take(first, wire.MAX_BATCH_EVENTS, wire.MAX_BATCH_BYTES)
        message: wire.Message
        if isinstance(taken, Hole):
            self._cursor, size = taken.last + 1, 0
            message = wire.Skipped(source=source, first=first, last=taken.last, reason=taken.reason)
        else:
            self._cursor, size = first + len(taken), sum(map(len, taken))
            message = wire.Events(source=source, first=first, bodies=taken)
        self._window.append(Sent(first, self._cursor, size, now))
        self._window_bytes += size
        return message

    def _deliver(self, message: wire.Deliver) -> None:
        try:
            command = events.decode(message.body, message.offset)
        except msgspec.DecodeError as error:
            self.problem = f"a command can't be read: {error}"
            return
        if not isinstance(command, events.Command) or command.id in self._commands:
            return
        self._commands[command.id] = None
        if len(self._commands) > REMEMBERED_COMMANDS:
            del self._commands[next(iter(self._commands))]
        if self._on_command is not None:
            self._on_command(command)
