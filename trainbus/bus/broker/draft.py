"""A batch in the making: events get their offsets and numbers, summaries and topics move on with them.

Everything a draft changes is a change of `Tables` that is not committed yet; a failed commit rolls these back and the draft is gone.
"""

from __future__ import annotations

from msgspec import Struct, structs

from trainbus.bus import events, wire
from trainbus.bus.broker import runs
from trainbus.bus.broker.batch import Batch, Delete, Row
from trainbus.bus.broker.intake import Feed, Missing, Taken
from trainbus.bus.broker.records import KindRecord, RunRecord, SourceRecord, Tables, TopicRecord

MAX_EVENTS = 10_000
"""Events at which a transaction is closed. One topic's events of a commit are one frame, so this bounds frames as well."""

MAX_BYTES = 4 * wire.MAX_BATCH_BYTES


class Numbers:
    """Gives out the integers that stand for runs, kinds and sources; never the same one twice in a broker's life."""

    def __init__(self, tables: Tables) -> None:
        self.run = max((row.id for row in tables.runs.values()), default=0)
        self.kind = max((row.id for row in tables.kinds.values()), default=0)
        self.source = max((row.id for row in tables.sources.values()), default=0)


class _Topic(Struct):
    """The events of one topic in this draft."""

    run: str
    kind: str
    run_id: int
    kind_id: int
    events: list[tuple[int, bytes]]
    first_time: int
    last_time: int = 0


class Draft:
    """Collects one batch.

    Args:
        tables: The journal's small tables.
        head: The last offset given out so far.
        numbers: Where new ids come from.
        own: The broker's own source.
        wall: Nanoseconds since the epoch, for events that the broker makes.
    """

    def __init__(self, tables: Tables, head: int, numbers: Numbers, own: str, wall: int) -> None:
        self.tables = tables
        self.head = head
        self.wall = wall
        self.rows: list[Row] = []
        self.bytes = 0
        self.feeds: dict[str, Feed] = {}
        self.milestones: list[tuple[events.AnyEvent, bool]] = []
        self._previous = head
        self._numbers = numbers
        self._own = own
        self._topics: dict[tuple[str, str], _Topic] = {}

    @property
    def full(self) -> bool:
        """Whether the transaction is large enough."""
        return len(self.rows) >= MAX_EVENTS or self.bytes >= MAX_BYTES

    def add(self, item: Taken | Missing) -> None:
        """Add what a source sent, or the gap in its place."""
        feed = item.feed
        self.feeds[feed.source] = feed
        record = self.tables.sources.get(feed.source) or self._new_source(feed)
        self.tables.sources.put(structs.replace(record, expected=item.expected))
        if isinstance(item, Missing):
            self.make(structs.replace(item.gap))
            return
        rows, offset, source = self.rows, self.head, record.id
        topic, last_run, last_kind = None, "", ""
        for run, kind, seq, time, body in item.events:
            if topic is None or kind is not last_kind or run is not last_run:
                topic, last_run, last_kind = self._topic(run, kind, time), run, kind
            offset += 1
            rows.append((offset, topic.run_id, topic.kind_id, source, seq, time, body))
            topic.events.append((offset, body))
            topic.last_time = time
            if kind in runs.MILESTONES:
                self._milestone(body)
        self.head = offset
        self.bytes += item.size

    def make(self, event: events.Event) -> tuple[int, bytes]:
        """Add an event of the broker's own; returns its offset and body."""
        record = self.tables.sources.get(self._own)
        if record is None:
            self._numbers.source += 1
            record = SourceRecord(source=self._own, id=self._numbers.source, name="broker")
        self.tables.sources.put(structs.replace(record, expected=record.expected + 1))
        event.source, event.seq, event.time = self._own, record.expected, event.time or self.wall
        body = events.encode(event)
        topic = self._topic(event.run, event.kind, event.time)
        self.head += 1
        self.rows.append((self.head, topic.run_id, topic.kind_id, record.id, event.seq, event.time, body))
        topic.events.append((self.head, body))
        topic.last_time = event.time
        self.milestones.append((event, True))
        return self.head, body

    def fold(self, event: events.AnyEvent, *, own: bool) -> RunRecord:
        """Let a milestone move its run's summary on; returns the summary as it was before."""
        before = self.tables.runs.get(event.run)
        assert before is not None
        self.tables.runs.put(runs.fold(before, event, own=own))
        return before

    def touches(self, run: str) -> bool:
        """Whether the draft holds events of a run."""
        return any(topic.run == run for topic in self._topics.values())

    def finish(self, delete: Delete | None) -> tuple[Batch, list[tuple[bytes, wire.Fanout]]]:
        """The batch, and what to fan out once it is committed."""
        fans: list[tuple[bytes, wire.Fanout]] = []
        for topic in self._topics.values():
            key = (topic.run_id, topic.kind_id)
            before = self.tables.topics.get(key) or TopicRecord(*key)
            self.tables.topics.put(
                structs.replace(before, last=topic.events[-1][0], events=before.events + len(topic.events)),
            )
            fans.append((wire.topic(topic.kind, topic.run).encode(), wire.Fanout(before.last, topic.events)))
            self._summarise(topic)
        for feed in self.feeds.values():
            record = self.tables.runs.get(feed.run) if feed.owner and not feed.ended else None
            if record is not None and record.state == "running" and record.owner != feed.source:
                self.tables.runs.put(structs.replace(record, owner=feed.source))
        return Batch(head=self.head, rows=self.rows, changes=self.tables.changes(), delete=delete), fans

    def _summarise(self, topic: _Topic) -> None:
        record = self.tables.runs.get(topic.run)
        assert record is not None
        record = runs.count(record, len(topic.events), topic.first_time, topic.last_time)
        if topic.kind == "step" and (last := runs.decoded(topic.events[-1][1])):
            record = runs.fold(record, last, own=False)
        self.tables.runs.put(record)

    def _milestone(self, body: bytes) -> None:
        if event := runs.decoded(body):
            self.milestones.append((event, False))

    def _topic(self, run: str, kind: str, time: int) -> _Topic:
        topic = self._topics.get((run, kind))
        if topic is None:
            record = self.tables.runs.get(run)
            if record is None:
                self._numbers.run += 1
                record = RunRecord(run=run, id=self._numbers.run)
                self.tables.runs.put(record)
            known = self.tables.kinds.get(kind)
            if known is None:
                self._numbers.kind += 1
                known = KindRecord(kind=kind, id=self._numbers.kind)
                self.tables.kinds.put(known)
            topic = self._topics[run, kind] = _Topic(run, kind, record.id, known.id, [], time)
        return topic

    def _new_source(self, feed: Feed) -> SourceRecord:
        self._numbers.source += 1
        return SourceRecord(
            source=feed.source, id=self._numbers.source, run=feed.run, name=feed.name, host=feed.host, pid=feed.pid, owner=feed.owner
        )
