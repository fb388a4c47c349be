"""Conversations with publishers: who they are, whether they live, what they send (D3, D7)."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import structs

from trainbus.bus import events, wire
from trainbus.bus.broker.effects import Fan
from trainbus.bus.broker.intake import MAX_INTEGER, MAX_NAME, Feed, Intake
from trainbus.bus.broker.liveness import Liveness, Watched, found_event, lost_events
from trainbus.bus.broker.outbox import Outbox
from trainbus.bus.broker.records import Tables

FORGET_AFTER = 3600.0
"""Seconds after which a source that ended is no longer shown by status; its seqs are in the journal."""

ASK_PAUSE = 0.25
"""Seconds before an unknown source is asked again to say hello."""


class Publishers:
    """Answers publishers' messages and watches the owners among them.

    Args:
        tables: The journal's small tables.
        journal: The journal's id.
        outbox: Where messages and events go.
        lost_after: Seconds of silence after which a run is lost.
        wall: Nanoseconds since the epoch.
        now: Monotonic seconds.
    """

    def __init__(self, tables: Tables, journal: str, outbox: Outbox, *, lost_after: float, wall: Callable[[], int], now: float) -> None:
        self.intake = Intake(tables.sources)
        self.liveness = Liveness(lost_after, tables.runs.values(), now)
        self._runs = tables.runs
        self._journal = journal
        self._outbox = outbox
        self._wall = wall
        self._released: dict[str, str] = {}
        self._stranger = ("", now)

    @property
    def waiting(self) -> bool:
        """Whether there is something for the next batch."""
        return bool(self.intake.queue or self._released)

    def hello(self, peer: bytes, message: wire.Hello, now: float) -> Feed | None:
        """A publisher connected. Returns its feed; None when it is refused."""
        if message.protocol != wire.PROTOCOL:
            self._outbox.other_version(peer, -1, message.protocol)
            return None
        if not message.source or len(message.source) > MAX_NAME or len(message.run) > MAX_NAME or "\0" in message.run:
            self._outbox.refuse(peer, -1, f"Hello names source {message.source[:64]!r} and run {message.run[:64]!r}: that can't be.")
            return None
        message.pid = min(max(message.pid, 0), MAX_INTEGER)
        feed = self.intake.hello(peer, message, now)
        if feed.owner:
            self._found(feed, self.liveness.owner(feed.source, feed.run, now))
        else:
            self.liveness.left(feed.source)
        self._outbox.send(
            peer,
            wire.Welcome(protocol=wire.PROTOCOL, journal=self._journal, source=feed.source, expected=self.intake.expected(feed.source)),
        )
        return feed

    def receive(self, peer: bytes, message: wire.Events | wire.Skipped | wire.Beat | wire.Bye, now: float) -> None:
        """A source says something."""
        feed = self.intake.heard(peer, message.source, now)
        if feed is None:
            self._ask_for_hello(peer, message.source, now)
            return
        if feed.owner:
            self._found(feed, self.liveness.heard(feed.source, feed.run, now))
        if isinstance(message, wire.Events):
            self._outbox.effects += self.intake.events(feed, message, now)
        elif isinstance(message, wire.Skipped):
            self._outbox.effects += self.intake.skipped(feed, message, now)
        elif isinstance(message, wire.Beat):
            self._beat(feed, message)
        else:
            feed.ended = True
            self.liveness.left(feed.source)
            self._released[feed.source] = feed.run

    def tick(self, now: float) -> None:
        """Declare lost what has been silent for too long."""
        for watched in self.liveness.tick(now):
            self._lose(watched, now)
        for feed in [feed for feed in self.intake.feeds.values() if feed.ended and now - feed.heard > FORGET_AFTER]:
            del self.intake.feeds[feed.source]

    def release_owners(self) -> list[str]:
        """Change the tables so that runs whose owner said bye have nobody to watch, also after a restart of the broker.

        Returns:
            The sources to give to `released` once that is committed.
        """
        for source, run in self._released.items():
            record = self._runs.get(run)
            if record is not None and record.owner == source and record.state == "running":
                self._runs.put(structs.replace(record, owner=""))
        return list(self._released)

    def released(self, sources: list[str]) -> None:
        """What `release_owners` did is committed."""
        for source in sources:
            self._released.pop(source, None)

    def owners(self) -> dict[str, Feed]:
        """The peer that takes commands, for each run that has one."""
        return {feed.run: feed for feed in self.intake.feeds.values() if feed.owner and not feed.ended}

    def statuses(self, now: float) -> list[wire.SourceStatus]:
        """Every source that was heard of."""
        return [
            wire.SourceStatus(
                source=feed.source,
                run=feed.run,
                host=feed.host,
                pid=feed.pid,
                owner=feed.owner,
                expected=self.intake.expected(feed.source),
                state="lost" if feed.lost else "ended" if feed.ended else "draining" if feed.draining else "live",
                silent_for=now - feed.heard,
                last_step=feed.last_step,
                rss=feed.rss,
            )
            for feed in self.intake.feeds.values()
        ]

    def _ask_for_hello(self, peer: bytes, source: str, now: float) -> None:
        """Once in a while: several messages in flight are no reason to ask several times."""
        asked, when = self._stranger
        if asked == source and now - when < ASK_PAUSE:
            return
        self._stranger = (source, now)
        problem = f"Source {source[:64]!r} is unknown here: it has to say hello first."
        self._outbox.send(peer, wire.Failure(code="hello", problem=problem, hint="A publisher says hello on every connection."))

    def _beat(self, feed: Feed, message: wire.Beat) -> None:
        """Fanned out at once and never journaled: a heartbeat of the past is worth nothing."""
        feed.last_step = message.step if message.step is not None else feed.last_step
        feed.rss = message.rss if message.rss is not None else feed.rss
        beat = events.Heartbeat(
            run=feed.run, source=feed.source, time=self._wall(), step=message.step, rss=message.rss, state=message.state
        )
        topic = wire.topic(beat.kind, beat.run).encode()
        self._outbox.effects.append(Fan(wire.pack_frame(topic, wire.Fanout(-1, [(-1, events.encode(beat))]))))

    def _lose(self, watched: Watched, now: float) -> None:
        feed, record = self.intake.feeds.get(watched.source), self._runs.get(watched.run)
        deleted = record is None and feed is not None and feed.taken > 0
        if deleted or (record is not None and record.state != "running"):
            self.liveness.ended(watched.source, watched.run)
            return
        if feed:
            feed.lost = True
        self._outbox.own.extend(lost_events(watched, feed, record, now))

    def _found(self, feed: Feed, lost_source: str | None) -> None:
        feed.lost = False
        if lost_source is not None:
            self._outbox.own.append(found_event(feed.run, lost_source, f"Run {feed.run} gives signs of life again."))
