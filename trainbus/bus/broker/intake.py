"""Taking events in: each source's events once, in order, without holes that nobody declared.

Sequencing runs ahead of the journal: while one batch is being committed, the next is checked and queued here. ``taken`` is how far
that went, ``expected`` in the journal's sources table is how far it was committed; a failed commit sets the first back to the second.
"""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

from msgspec import Struct

from trainbus.bus import events, wire
from trainbus.bus.broker.effects import Effect, Send
from trainbus.bus.broker.records import SourceRecord, Table
from trainbus.bus.events import DECODE_ERRORS

REWIND_PAUSE = 0.25
"""Seconds before the same `Rewind` is said again: each batch in flight behind a lost one would ask for it, one resend is enough."""

COMMAND = str(events.Command.__struct_config__.tag)
"""What no publisher may send: asking needs another role than telling."""

MAX_NAME = 512
"""Longest kind, run or source in characters: they become topics and rows."""

MAX_INTEGER = 2**62
"""Largest seq, time or step that is taken: it has to fit into SQLite's 64 bits."""

_NO_TOPIC = ("\0", "\0")

Checked: TypeAlias = tuple[str, str, int, int, bytes]
"""An event that may be journaled: run, kind, seq, time, body."""


class Feed(Struct):
    """A source that the broker has heard of since it started, and the peer that speaks for it."""

    source: str
    run: str
    peer: bytes
    host: str = ""
    pid: int = 0
    name: str = ""
    owner: bool = False
    draining: bool = False
    ended: bool = False
    lost: bool = False
    taken: int = 0
    heard: float = 0.0
    last_step: int | None = None
    rss: int | None = None
    rewound: tuple[int, float] = (-1, 0.0)


class Taken(Struct):
    """Events of one source with consecutive seqs, ready to be journaled."""

    feed: Feed
    events: list[Checked]
    expected: int
    size: int


class Missing(Struct):
    """Seqs of one source that will never come: the gap event stands in their place."""

    feed: Feed
    gap: events.Gap
    expected: int
    size: int = 256


class Intake:
    """The sources' side of the core: what may be journaled next, and what must be sent again.

    Args:
        sources: The journal's table of sources.
    """

    def __init__(self, sources: Table[str, SourceRecord]) -> None:
        self.feeds: dict[str, Feed] = {}
        self.queue: deque[Taken | Missing] = deque()
        self.queued_bytes = 0
        self.rejected = 0
        self._sources = sources

    def expected(self, source: str) -> int:
        """The source's next seq as the journal has it."""
        record = self._sources.committed(source)
        return record.expected if record else 0

    def hello(self, peer: bytes, message: wire.Hello, now: float) -> Feed:
        """A publisher connected, perhaps again."""
        feed = self.feeds.get(message.source)
        if feed is None:
            feed = Feed(source=message.source, run=message.run, peer=peer, taken=self.expected(message.source))
            self.feeds[message.source] = feed
        feed.peer, feed.heard, feed.run, feed.name = peer, now, message.run, message.name
        feed.host, feed.pid, feed.owner, feed.draining = message.host, message.pid, message.owner and not message.draining, message.draining
        feed.ended, feed.rewound = False, (-1, 0.0)
        return feed

    def heard(self, peer: bytes, source: str, now: float) -> Feed | None:
        """The feed of a source that speaks; None for one that the broker has never heard of.

        A source of the journal needs no `Hello` after the broker restarted: its row tells the same.
        """
        feed = self.feeds.get(source)
        if feed is None:
            record = self._sources.committed(source)
            if record is None:
                return None
            feed = Feed(source=source, run=record.run, peer=peer, host=record.host, pid=record.pid, name=record.name)
            feed.owner, feed.taken = record.owner, record.expected
            self.feeds[source] = feed
        feed.peer, feed.heard = peer, now
        return feed

    def events(self, feed: Feed, message: wire.Events, now: float) -> list[Effect]:
        """Queue what is new of a batch."""
        if message.first > feed.taken:
            return self._rewind(feed, now)
        if message.first + len(message.bodies) <= feed.taken:
            return [Send(feed.peer, wire.Ack(source=feed.source, expected=self.expected(feed.source)))]
        start = feed.taken - message.first
        self._check(feed, message.bodies[start:] if start else message.bodies)
        return []

    def skipped(self, feed: Feed, message: wire.Skipped, now: float) -> list[Effect]:
        """Queue a gap in place of seqs that the source had to drop."""
        if message.first > feed.taken:
            return self._rewind(feed, now)
        if not feed.taken <= message.last <= MAX_INTEGER:
            return [Send(feed.peer, wire.Ack(source=feed.source, expected=self.expected(feed.source)))]
        self._missing(feed, message.last + 1, message.reason or "dropped by the publisher")
        return []

    def commit_failed(self) -> list[Effect]:
        """Forget what was queued or in the failed batch: publishers still hold it and are told to send it again."""
        self.queue.clear()
        self.queued_bytes = 0
        effects: list[Effect] = []
        for feed in self.feeds.values():
            expected = self.expected(feed.source)
            if feed.taken != expected:
                feed.taken = expected
                feed.rewound = (-1, 0.0)
                effects.append(Send(feed.peer, wire.Rewind(source=feed.source, expected=expected)))
        return effects

    def take(self) -> Taken | Missing | None:
        """The next queued item, oldest first."""
        if not self.queue:
            return None
        item = self.queue.popleft()
        self.queued_bytes -= item.size
        return item

    def _rewind(self, feed: Feed, now: float) -> list[Effect]:
        expected, said = feed.rewound
        if expected == feed.taken and now - said < REWIND_PAUSE:
            return []
        feed.rewound = (feed.taken, now)
        return [Send(feed.peer, wire.Rewind(source=feed.source, expected=feed.taken))]

    def _check(self, feed: Feed, bodies: list[bytes]) -> None:
        """Queue bodies from ``feed.taken`` on; one that is no event of this source and seq leaves a gap."""
        decode, source = events.decode_envelope, feed.source
        seq, size = feed.taken, 0
        checked: list[Checked] = []
        run, kind = _NO_TOPIC
        for body in bodies:
            try:
                envelope = decode(body)
                problem = "" if envelope.seq == seq and envelope.source == source else _foreign(envelope)
                # Most events have the topic of the one before: it is checked once, and its strings keep their hashes.
                if envelope.kind != kind or envelope.run != run:
                    run, kind = envelope.run, envelope.kind
                    if not _is_topic(kind, run):
                        problem = f"kind {kind[:64]!r} or run {run[:64]!r} can't be part of a topic"
                        run, kind = _NO_TOPIC
                    elif kind == COMMAND:
                        problem = "only the broker makes commands, for whoever may ask (`sendcommand`)"
                        run, kind = _NO_TOPIC
                if not 0 <= envelope.time <= MAX_INTEGER:
                    problem = f"time {envelope.time} is out of range"
            except DECODE_ERRORS as error:
                problem = f"the bytes are no event: {error}"
            if not problem:
                checked.append((run, kind, seq, envelope.time, body))
                size += len(body)
            else:
                self.rejected += 1
                self._queue_taken(feed, checked, seq, size)
                checked, size = [], 0
                self._missing(feed, seq + 1, f"refused by the broker: {problem}")
            seq += 1
        self._queue_taken(feed, checked, seq, size)

    def _queue_taken(self, feed: Feed, checked: list[Checked], expected: int, size: int) -> None:
        if checked:
            self.queue.append(Taken(feed, checked, expected, size))
            self.queued_bytes += size
            feed.taken = expected

    def _missing(self, feed: Feed, expected: int, reason: str) -> None:
        gap = events.Gap(run=feed.run, missing_source=feed.source, first_seq=feed.taken, last_seq=expected - 1, reason=reason)
        item = Missing(feed, gap, expected)
        self.queue.append(item)
        self.queued_bytes += item.size
        feed.taken = expected


def _foreign(envelope: events.Envelope) -> str:
    return f"the event says seq {envelope.seq} of source {envelope.source[:64]!r}"


def _is_topic(kind: str, run: str) -> bool:
    """Whether ``kind.run`` is a topic that subscribers can tell apart from others: no dot in the kind, no NUL, not too long."""
    return kind.isidentifier() and "\0" not in run and len(kind) <= MAX_NAME and len(run) <= MAX_NAME
