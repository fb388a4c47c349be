"""A range of the history, page by page."""

from __future__ import annotations

from trainbus.bus import wire
from trainbus.bus.filter import Filter
from trainbus.errors import ProtocolError

PAGE_EVENTS = 5_000
"""Events asked for at a time; the broker may end a page sooner, at `wire.MAX_BATCH_BYTES`."""


class Pages:
    """Which page comes next. A range without end goes up to the head at the time of the first answer, also while more is committed.

    Args:
        choice: Which events.
        after: Offset before the first one wanted.
        upto: Last offset wanted; None for the head.
    """

    def __init__(self, choice: Filter, after: int, upto: int | None) -> None:
        self._choice = choice
        self._upto = upto
        self.question: wire.History | None = choice.history(after, upto, PAGE_EVENTS)

    def turn(self, page: wire.Page) -> None:
        """Take in the answer to `question` and put the next one in its place, None after the last page."""
        if self._upto is None:
            self._upto = page.head
        if page.done or page.next >= self._upto:
            self.question = None
            return
        if self.question is not None and page.next <= self.question.after:
            hint = "Broker and reader are of different versions, or the broker has a bug: please report it."
            raise ProtocolError(f"A page of the history after {self.question.after} says to go on after {page.next}.", hint=hint)
        self.question = self._choice.history(page.next, self._upto, PAGE_EVENTS)
