"""Assembles one gapless stream out of a fan-out that may drop and a history that may be asked.

Sans-IO: fan-out frames, answers and notices of reconnection come in; events in offset order and the next request to make come out.

The commit marker is the authority. It says: offsets ``previous + 1`` to ``head`` were committed, under these topics. Who has everything
up to ``previous`` and holds a `Fanout` for each listed topic that he wants has everything up to ``head``. In every other case (a
marker was dropped, a frame was dropped, a connection was lost) the range is fetched from the journal, while live commits wait in a
bounded buffer. No other sign is needed, so frames may be dropped, repeated or late in any way without harm to what is delivered.
"""

from __future__ import annotations

from collections import deque
from itertools import chain
from typing import Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from trainbus.bus import wire
from trainbus.bus.events import DECODE_ERRORS
from trainbus.bus.filter import Filter, is_heartbeat
from trainbus.errors import JournalError, ProtocolError

PAGE_EVENTS = 5_000
"""Events asked for at a time; two such pages at most wait to be taken."""

BUFFER_BYTES = 32 * 1024 * 1024
"""What live commits may occupy while history is fetched. Beyond it they are dropped: history has them too."""

FRAME_OVERHEAD = 200
"""Bytes that one buffered frame costs beyond its payload (objects, dict entry), so that many tiny frames count as well."""

Record: TypeAlias = tuple[int, bytes]
"""Offset and body of one event. The offset of a heartbeat is -1: it is not journaled."""

Start: TypeAlias = int | Literal["now"]
"""An offset (the last one not wanted; -1 for everything), or ``now``: what is committed from the first contact on."""

Question: TypeAlias = wire.Status | wire.History

T = TypeVar("T")

_marker_decoder = msgspec.msgpack.Decoder(wire.Commit)
_fanout_decoder = msgspec.msgpack.Decoder(wire.Fanout)


class StreamStats(Struct, frozen=True, kw_only=True):
    """What a stream has seen. ``position`` is None until ``now`` is known; ``lag`` counts offsets, of all kinds and runs."""

    journal: str
    position: int | None
    head: int
    lag: int
    live_events: int
    history_events: int
    pages: int
    losses: int
    overflows: int
    buffered_bytes: int
    catching_up: bool


class _Live(Struct):
    """One commit as it came by fan-out: its marker, and the frames seen before it."""

    marker: wire.Commit
    frames: dict[str, bytes]
    size: int


class Stream:
    """Every wanted event once, in offset order: history, then live, without a seam.

    Args:
        choice: Which events are wanted.
        start: Where to begin.
        journal: Id of the journal that ``start`` belongs to; empty adopts the first one met.
        page_events: Size of the pages asked for.
        buffer_bytes: Bound of what live commits may occupy while history is fetched.
    """

    def __init__(
        self, choice: Filter, *, start: Start = -1, journal: str = "", page_events: int = PAGE_EVENTS, buffer_bytes: int = BUFFER_BYTES
    ) -> None:
        self.choice = choice
        self.position: int | None = None if start == "now" else start
        self.journal = journal
        self._page_events = page_events
        self._buffer_bytes = buffer_bytes
        self._ready: list[Record] = []
        self._open: dict[str, bytes] = {}
        self._open_bytes = 0
        self._commits: deque[_Live] = deque()
        self._buffered = 0
        self._unsure = True
        self._target = -1
        self._asked: Question | None = None
        self._asked_at: int | None = None
        self._head = -1
        self._live_events = self._history_events = self._pages = self._losses = self._overflows = 0

    # --- what comes in ---------------------------------------------------------------------------

    def frame(self, frame: bytes) -> None:
        """One frame of the fan-out.

        Raises:
            JournalError: The broker serves another journal: offsets mean nothing there.
            ProtocolError: The frame is none.
        """
        name, payload = wire.split_frame(frame)
        if name == wire.COMMIT_TOPIC:
            self._marker(_decode(_marker_decoder, payload))
            return
        topic = name.decode(errors="replace")
        if not self.choice.matches(topic):
            return
        if is_heartbeat(topic):
            self._ready += _decode(_fanout_decoder, payload).events
            return
        self._open[topic] = payload
        self._open_bytes += len(payload) + FRAME_OVERHEAD
        if self._open_bytes > self._buffer_bytes:
            # Markers must have been dropped by the thousand: the next one will find its frames missing and ask for history.
            self._forget_open()

    def reconnected(self) -> None:
        """A connection was lost or made anew: whatever happened meanwhile was missed, and the broker may be another one."""
        self._forget_open()
        self._forget_commits()
        self._unsure = True
        self._asked = None

    def answered(self, question: Question, answer: wire.BrokerStatus | wire.Page) -> None:
        """The answer to what `wanted` gave out; one that is no longer asked (see `reconnected`) is ignored.

        Raises:
            JournalError: The broker serves another journal, or this one lost its end.
            ProtocolError: The page leads nowhere.
        """
        if question is not self._asked:
            return
        self._asked = None
        if isinstance(question, wire.Status) and isinstance(answer, wire.BrokerStatus):
            self._identified(answer.journal, answer.head)
        elif isinstance(question, wire.History) and isinstance(answer, wire.Page):
            self._page(question, answer)
        self._advance()

    def unanswered(self) -> None:
        """What `wanted` gave out was not answered, and may be asked again."""
        self._asked = None

    # --- what goes out ---------------------------------------------------------------------------

    def wanted(self) -> Question | None:
        """The request to make now, or None. Each is given out once; `answered`, `unanswered` or `reconnected` ends it."""
        if self._asked is not None or len(self._ready) > self._page_events:
            return None
        if self._unsure:
            self._asked = wire.Status()
        elif self.position is not None and self.position < self._target:
            self._asked = self.choice.history(self.position, self._target, self._page_events)
        self._asked_at = self.position
        return self._asked

    def take(self) -> list[Record]:
        """All events that are ready, in order; they are the caller's now."""
        ready, self._ready = self._ready, []
        return ready

    @property
    def has_ready(self) -> bool:
        """Whether `take` has something to give."""
        return bool(self._ready)

    @property
    def settled(self) -> bool:
        """Whether the place to start from is known and the broker has been met since the last reconnection."""
        return self.position is not None and not self._unsure

    def stats(self) -> StreamStats:
        """Figures at this moment."""
        position = self.position
        return StreamStats(
            journal=self.journal,
            position=position,
            head=self._head,
            lag=max(0, self._head - position) if position is not None else 0,
            live_events=self._live_events,
            history_events=self._history_events,
            pages=self._pages,
            losses=self._losses,
            overflows=self._overflows,
            buffered_bytes=self._buffered + self._open_bytes,
            catching_up=position is None or position < self._target,
        )

    # --- history ---------------------------------------------------------------------------------

    def _identified(self, journal: str, head: int) -> None:
        self._check_journal(journal)
        # Live commits may have carried the position past what the broker knew when it answered: compare with where we were on asking.
        if self._asked_at is not None and head < self._asked_at:
            self._lost_its_end(head, self._asked_at)
        self._unsure = False
        self._head = max(self._head, head)
        if self.position is None:
            self.position = head
        self._target = max(self._target, head)

    def _page(self, question: wire.History, page: wire.Page) -> None:
        upto = self._target if question.upto is None else question.upto
        if page.head < upto:
            self._lost_its_end(page.head, upto)
        if not page.done and page.next <= question.after:
            hint = "Broker and reader are of different versions, or the broker has a bug: please report it."
            raise ProtocolError(f"A page of the history after {question.after} says to go on after {page.next}.", hint=hint)
        self._ready += page.events
        self._history_events += len(page.events)
        self._pages += 1
        self._head = max(self._head, page.head)
        # A page moves the position also over offsets that nobody here wants.
        self.position = upto if page.done else page.next

    # --- live ------------------------------------------------------------------------------------

    def _marker(self, marker: wire.Commit) -> None:
        self._check_journal(marker.journal)
        self._head = max(self._head, marker.head)
        live = _Live(marker, self._open, self._open_bytes + FRAME_OVERHEAD)
        self._forget_open()
        self._commits.append(live)
        self._buffered += live.size
        if self._buffered > self._buffer_bytes:
            self._overflows += 1
            self._target = max(self._target, self._head)
            self._forget_commits()
        self._advance()

    def _advance(self) -> None:
        """Deliver buffered commits for as long as nothing is missing before or in them."""
        while self._commits and self.position is not None and self.position >= self._target:
            live = self._commits.popleft()
            self._buffered -= live.size
            if live.marker.head <= self.position:
                continue
            merged = self._merge(live) if live.marker.previous <= self.position else None
            if merged is None:
                self._losses += 1
                self._target = live.marker.head
                return
            if merged and merged[0][0] <= self.position:
                merged = [record for record in merged if record[0] > self.position]
            self._ready += merged
            self._live_events += len(merged)
            self.position = live.marker.head

    def _merge(self, live: _Live) -> list[Record] | None:
        """The commit's wanted events in offset order; None when a frame is missing."""
        marker = live.marker
        parts: list[list[Record]] = []
        for topic in marker.topics:
            if not self.choice.matches(topic):
                continue
            payload = live.frames.get(topic)
            events = _decode(_fanout_decoder, payload).events if payload is not None else []
            # A frame may be left from an earlier commit whose marker was dropped, while this commit's own frame was dropped too.
            if not events or not marker.previous < events[0][0] <= events[-1][0] <= marker.head:
                return None
            parts.append(events)
        return parts[0] if len(parts) == 1 else sorted(chain.from_iterable(parts))

    # --- small -----------------------------------------------------------------------------------

    def _forget_open(self) -> None:
        self._open, self._open_bytes = {}, 0

    def _forget_commits(self) -> None:
        self._commits.clear()
        self._buffered = 0

    def _check_journal(self, journal: str) -> None:
        if not self.journal:
            self.journal = journal
        elif journal != self.journal:
            problem = (
                f"The broker serves journal {journal}, but this reader's place (offset {self.position}) is one in journal {self.journal}."
            )
            hint = "Go back to the journal's own TRAINBUS_HOME, or start anew: a new Subscriber, from the beginning or from now."
            raise JournalError(problem, hint=hint, found=journal, allowed=self.journal, position=self.position)

    def _lost_its_end(self, head: int, position: int) -> None:
        problem = f"Journal {self.journal} ends at offset {head}, but this reader's place is offset {position}: the journal lost its end."
        hint = "Was it restored from a backup, or the place taken from elsewhere? Start anew: a new Subscriber, or a reset cursor."
        raise JournalError(problem, hint=hint, found=head, position=position)


def _decode(decoder: msgspec.msgpack.Decoder[T], payload: bytes) -> T:
    try:
        return decoder.decode(payload)
    except DECODE_ERRORS as error:
        hint = "Is the xpub address the one of a trainbus broker of this version?"
        raise ProtocolError(f"A frame of the fan-out can't be read: {error}", hint=hint) from error
