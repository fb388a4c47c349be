"""What a source has published and the broker has not acknowledged: spool segments, and behind them a memory ring.

Events go to the spool. While it has no segment (disk full, bound reached) they go to a bounded ring in memory and move to the
spool as soon as it has one again. What the ring drops shows as a `Hole`, which the link declares to the broker.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple
from zlib import crc32

from trainbus.bus.segment import RECORD_BYTES, SEQ_MASK, Segment, pack_record
from trainbus.bus.spool import ACKNOWLEDGED, PUBLISHED, Spool
from trainbus.errors import SpoolError

PREFAULT_BYTES = 2 * 1024 * 1024
"""Pages made ready ahead of the writer: 60 ms of a tight loop, longer than a tick of the owner thread."""
RETRY_SECONDS = 1.0
"""Pause between attempts to get a segment from a disk that had no room."""
READY_SEGMENTS = 2
"""Segments ready for a writer that is half through the present one."""
YIELDS, YIELD_SECONDS = 200, 0.0005
"""How often and how long publish() lets the owner thread run before it drops an event: 100 ms in all, until there is a segment again."""
REFILL_EVENTS = 200
"""Events moved from ring to spool at a time, while publish() waits: about 0.1 ms."""

DROPPED = "the spool had no room and the memory ring overflowed"
OTHER_JOURNAL = "acknowledged before, to a journal that is not this one"
UNREADABLE = "lost with the memory of a process that died, or damaged in its spool"


class Hole(NamedTuple):
    """Seqs up to ``last`` (inclusive) are gone, and why."""

    last: int
    reason: str


class Outbox:
    """Numbers, keeps and hands out the bodies of one source.

    `append` and `refill` are called under the publisher's lock, by any thread; everything else by the owner thread alone.
    """

    def __init__(self, spool: Spool, *, memory_events: int) -> None:
        self.next = 0
        """Seq of the next event. Always moved together with the segment's own, by stores that no signal can part."""
        self.acknowledged = 0
        self.dropped = 0
        self.problem = ""
        """Why there is no segment; empty while all is well."""
        self.spool = spool
        self.lost_reason = DROPPED
        self._counters = spool.counters
        self._segments: deque[Segment] = deque()
        self._active: Segment | None = None
        self._ready: deque[Segment] = deque()
        self._ring: dict[int, bytes] = {}
        self._ring_first = 0
        self._memory_events = memory_events
        self._retry_at = 0.0
        self._yields_left = YIELDS

    @classmethod
    def recover(cls, spool: Spool, segments: Iterable[Segment]) -> Outbox:
        """What a dead process left. Nothing can be appended."""
        outbox = cls(spool, memory_events=0)
        outbox._segments.extend(segments)
        outbox.lost_reason = UNREADABLE
        outbox.acknowledged = spool.counters[ACKNOWLEDGED]
        outbox.next = max([spool.counters[PUBLISHED], *(segment.next for segment in outbox._segments)])
        return outbox

    @property
    def in_memory(self) -> int:
        """Events that only the ring holds."""
        return len(self._ring)

    def append(self, seq: int, body: bytes) -> bool:
        """Keep the body of ``seq``, which is `next`. True when the owner thread should look after segments now."""
        segment = self._active
        if segment is None or self._ring or not self._store(segment, seq, body):
            return self._append_slowly(seq, body)
        return False

    def _store(self, segment: Segment, seq: int, body: bytes) -> bool:
        """Write one record, in one copy: kill -9 in its middle leaves a record whose checksum is wrong."""
        start, length = segment.tail, len(body)
        end = start + RECORD_BYTES + length
        if end > segment.size or seq != segment.next:
            return False
        segment.map[start:end] = pack_record(length, crc32(body, seq & SEQ_MASK), seq) + body
        # No call from here on: a signal handler that raises can't leave one of these behind the others.
        segment.tail = end
        segment.next = seq = seq + 1
        if seq > self.next:
            self.next = seq
            self._counters[PUBLISHED] = seq
        return True

    def _append_slowly(self, seq: int, body: bytes) -> bool:
        if not self._ring and self._ready:
            self._store(self._activate(seq), seq, body)
            return True
        if not self._ring:
            self._ring_first = seq
        self._ring[seq] = body
        self.next = seq + 1
        self._counters[PUBLISHED] = seq + 1
        if len(self._ring) > self._memory_events:
            self._make_room()
        return len(self._ring) == 1

    def _make_room(self) -> None:
        """The ring is full. When nothing is known to be wrong, the owner thread was only kept from running: let it, within bounds."""
        while not self.problem and self._yields_left > 0 and len(self._ring) > self._memory_events:
            self._yields_left -= 1
            time.sleep(YIELD_SECONDS)
            self.refill()
        while len(self._ring) > self._memory_events:
            self._forget(self._ring_first)
            self.dropped += 1

    def _activate(self, seq: int) -> Segment:
        segment = self._ready.popleft()
        segment.begin(seq)
        self._segments.append(segment)
        self._active = segment
        self._yields_left = YIELDS
        self._counters = self.spool.counters
        self._counters[PUBLISHED] = self.next
        return segment

    def _forget(self, seq: int) -> None:
        self._ring_first = seq + 1
        self._ring.pop(seq, None)

    def refill(self) -> bool:
        """Move events from the ring to the spool, as far as that has room. True when more would fit now."""
        for _ in range(REFILL_EVENTS):
            if not self._ring:
                return False
            seq = self._ring_first
            body = self._ring.get(seq)
            if body is not None and seq >= self.acknowledged:
                segment = self._active
                if segment is None or not self._store(segment, seq, body):
                    if not self._ready:
                        return False
                    self._store(self._activate(seq), seq, body)
            self._forget(seq)
        return True

    def prepare(self, now: float) -> None:
        """Have the next segment, and its pages, ready before the writer needs them. Never raises."""
        active = self._active
        if active is not None:
            active.prefault(active.tail + PREFAULT_BYTES)
        enough = active is not None and not self._ring and active.tail * 2 < active.size
        if len(self._ready) >= READY_SEGMENTS or (self._ready and active is None) or enough or now < self._retry_at:
            return
        try:
            segment = self.spool.segment()
        except (OSError, SpoolError) as error:
            self.problem = error.problem if isinstance(error, SpoolError) else str(error)
            self._retry_at = now + RETRY_SECONDS
            return
        segment.prefault(PREFAULT_BYTES)
        self.problem = ""
        self._ready.append(segment)

    def take(self, seq: int, events: int, size: int) -> list[bytes] | Hole:
        """Bodies of ``seq`` (below `next`) and what follows on it: at most ``events`` and ``size`` bytes, at least one. Or a hole there."""
        in_ring = bool(self._ring)  # before looking at segments: the writer may open one meanwhile
        upto = self.next
        for segment in list(self._segments):
            if segment.first <= seq < segment.next:
                return segment.read(seq, events, size)
            if seq < segment.first and segment.first != segment.next:
                return self._hole(seq, segment.first)
        bodies: list[bytes] = []
        while len(bodies) < events and (body := self._ring.get(seq + len(bodies))) is not None:
            size -= len(body)
            if size < 0 and bodies:
                break
            bodies.append(body)
        return bodies or self._hole(seq, max(seq + 1, self._ring_first) if in_ring else upto)

    def _hole(self, seq: int, end: int) -> Hole:
        if seq < self.acknowledged:
            return Hole(min(end, self.acknowledged) - 1, OTHER_JOURNAL)
        return Hole(end - 1, self.lost_reason)

    def acknowledge(self, expected: int) -> None:
        """All seqs below ``expected`` are committed: forget them and recycle their segments."""
        expected = min(expected, self.next)
        if expected <= self.acknowledged:
            return
        self.acknowledged = expected
        self.spool.counters[ACKNOWLEDGED] = expected
        while self._segments and self._segments[0] is not self._active and self._segments[0].next <= expected:
            self.spool.recycle(self._segments.popleft())
            self._retry_at = 0.0

    def close(self) -> bool:
        """Give the files up: nothing stays when everything is acknowledged (True), else what the spool holds stays for a drainer."""
        settled = self.acknowledged >= self.next
        for segment in self._ready:
            self.spool.recycle(segment)
        self._ready.clear()
        self._active = None
        self.spool.close(self._segments, keep=not settled)
        self._segments.clear()
        return settled
