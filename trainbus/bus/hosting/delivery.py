"""What to do with each event, and how far the cursor may move: at least once, and never forever (D6).

Sans-IO: the mark that survives a death comes in as `Marks`; the host (or a simulation) calls hooks and commits.

    delivery.admit(offset)        handle it, skip it, or put it aside as a dead letter
    delivery.begin(offset, hook)  before each hook
    delivery.end(offset)          when all its hooks have returned (or raised: that is not death)
    delivery.abandon()            a hook was cancelled: the event comes again, and nobody died
    delivery.finished             the offset to commit, read between events
    delivery.committed(offset)    it is durable
"""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

import msgspec

from trainbus.bus.hosting.inflight import Mark

Verdict: TypeAlias = Literal["handle", "skip", "bury"]


class Marks(Protocol):
    """Survives the death of the process: a mapped file, or a dict in a simulation."""

    def mark(self, offset: int, hook: bytes) -> None:
        """``hook`` now works on ``offset``."""

    def clear(self) -> None:
        """Nothing is being worked on."""

    def marked(self) -> Mark | None:
        """What was being worked on."""

    def load_attempts(self) -> dict[int, int]:
        """Deaths by offset."""

    def save_attempts(self, attempts: dict[int, int]) -> None:
        """Replace them."""


class DeliveryStats(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one host's life. ``finished`` is the last offset whose hooks have returned, ``committed`` the durable cursor."""

    finished: int
    committed: int
    handled: int
    buried: int
    abandoned: int


class Delivery:
    """The cursor of one plugin.

    Args:
        cursor: The durable cursor that the broker holds.
        marks: What survived the last host's death.
        max_deliver: An event on which the plugin died this often is put aside.
    """

    def __init__(self, cursor: int, marks: Marks, max_deliver: int) -> None:
        self._marks = marks
        self._max_deliver = max_deliver
        self._finished = self._committed = cursor
        self._handled = self._buried = self._abandoned = 0
        self.died_on = marks.marked()
        """The event that the last host died on, if it did."""
        self._attempts = {offset: count for offset, count in marks.load_attempts().items() if offset > cursor}
        if self.died_on is not None and self.died_on.offset > cursor:
            self._attempts[self.died_on.offset] = self._attempts.get(self.died_on.offset, 0) + 1
        # The counts are saved before the mark is cleared: a death between the two counts once too often, never once too seldom.
        marks.save_attempts(self._attempts)
        marks.clear()

    def attempts(self, offset: int) -> int:
        """How often the plugin has died on this event."""
        return self._attempts.get(offset, 0)

    def admit(self, offset: int) -> Verdict:
        """What to do with the next event. Offsets at or below the cursor are repeats. A negative one (a heartbeat) is always handled."""
        if 0 <= offset <= self._finished:
            return "skip"
        if self._attempts and self._attempts.get(offset, 0) >= self._max_deliver:
            return "bury"
        return "handle"

    def begin(self, offset: int, hook: bytes) -> None:
        """Must be called before each hook: from here until `end` a death counts against this event."""
        self._marks.mark(offset, hook)

    def end(self, offset: int) -> None:
        """All hooks have returned or raised."""
        self._marks.clear()
        self._handled += 1
        if offset >= 0:
            self._finished = offset

    def bury(self, offset: int) -> None:
        """The event is in the dead letters (durably): go on behind it."""
        self._buried += 1
        self._finished = offset

    def abandon(self) -> None:
        """The hook at work was cancelled by an orderly stop: the event comes again and the attempt does not count."""
        self._marks.clear()
        self._abandoned += 1

    def pass_over(self, offset: int) -> None:
        """Nothing of interest lies up to ``offset``: the cursor may follow, so that the journal can be trimmed."""
        if offset > self._finished:
            self._finished = offset

    @property
    def finished(self) -> int:
        """The last offset whose hooks have all returned. Read it between events, together with the plugin's state."""
        return self._finished

    @property
    def uncommitted(self) -> bool:
        """Whether the cursor is ahead of what is durable."""
        return self._finished > self._committed

    def committed(self, offset: int) -> None:
        """The cursor is durable: deaths before it no longer matter."""
        self._committed = max(self._committed, offset)
        if self._attempts and min(self._attempts) <= offset:
            self._attempts = {poison: count for poison, count in self._attempts.items() if poison > offset}
            self._marks.save_attempts(self._attempts)

    def stats(self) -> DeliveryStats:
        """Figures since the host started."""
        return DeliveryStats(
            finished=self._finished, committed=self._committed, handled=self._handled, buried=self._buried, abandoned=self._abandoned
        )
