"""A consumer's commits on their way, sans-IO: one in flight, the later ones merged behind it."""

from __future__ import annotations

from trainbus.bus import wire


class Commits:
    """Moves a durable cursor without making the consumer wait.

    At most one commit is in flight; what comes meanwhile is merged into one that follows. So the number in flight is bounded without
    blocking anybody, and a commit that is sent again after a broken connection can't write older state over newer.

    Args:
        consumer: Name of the durable consumer.
    """

    def __init__(self, consumer: str) -> None:
        self.consumer = consumer
        self.acknowledged = 0
        self._offset: int | None = None
        self._state: dict[str, bytes | None] = {}
        self._in_flight = False

    def add(self, offset: int, state: dict[str, bytes | None]) -> None:
        """Commit ``offset`` and ``state``, together with what waits already."""
        self._offset = offset if self._offset is None else max(offset, self._offset)
        self._state |= state

    def next(self) -> wire.CommitCursor | None:
        """The request to make now, or None. `done` ends it."""
        if self._in_flight or self._offset is None:
            return None
        request = wire.CommitCursor(consumer=self.consumer, offset=self._offset, state=self._state)
        self._offset, self._state, self._in_flight = None, {}, True
        return request

    def done(self) -> None:
        """The request was answered."""
        self._in_flight = False
        self.acknowledged += 1

    @property
    def settled(self) -> bool:
        """Whether everything is acknowledged."""
        return not self._in_flight and self._offset is None
