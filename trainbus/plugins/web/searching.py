"""Searching the whole journal for events, the newest first, a part at a time: nobody's page waits while another's search runs."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

from trainbus.bus import events
from trainbus.bus.jsonable import to_jsonable
from trainbus.hookspecs import Context

FIRST_WINDOW = 1_000
"""Offsets that are looked through at once, the newest; each further window is twice as wide while one holds less than `DENSE` events."""

DENSE = 8_000
"""Events to read, not offsets: of a rare kind a window of many offsets holds few."""

PATIENCE = 1.5
"""Seconds after which a search answers with what it has, and with the offset where to go on."""

BREATH = 100
"""Events between two chances for everything else that the server does."""

NUMBERING = frozenset({"seq", "time", "offset"})
"""Fields that are not searched: they would be found by any digits."""


class Found(Struct, frozen=True):
    """Events, the newest first. ``next``: to look further back, ask for events before this offset; None when everything was looked at.

    ``looked`` is how many events were read for it, ``reached`` the offset down to which nothing more will be found.
    """

    events: list[events.AnyEvent]
    next: int | None
    looked: int
    reached: int


class Query(Struct, frozen=True):
    """What is looked for: events with each of the ``words``, of these kinds and runs (empty: any), before an offset.

    ``words`` are in lower case, as `words_of` gives them.
    """

    words: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    before: int = 0
    limit: int = 200


def words_of(text: str) -> tuple[str, ...]:
    """A text that a person types, as words without regard to case."""
    return tuple(text.casefold().split())


def matches(event: events.AnyEvent, words: tuple[str, ...]) -> bool:
    """Whether each word stands somewhere in the event, in the name or in the value of a field; ``nan`` and ``inf`` do where they stood."""
    if not words:
        return True
    fields = {name: value for name, value in to_jsonable(event).items() if name not in NUMBERING}
    text = " ".join(_texts(fields)).casefold()
    return all(word in text for word in words)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield str(name)
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif value is not None:
        yield str(value)


class Searcher:
    """Looks through the journal of one plugin. One search at a time has the server; the others wait for it."""

    def __init__(self, context: Context, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._clock = clock
        self._turn = asyncio.Lock()

    async def search(self, query: Query) -> Found:
        """The newest events that match, at most ``query.limit``; fewer when looking takes longer than `PATIENCE`.

        Raises:
            TrainbusError: The journal can't be read.
        """
        async with self._turn:
            return await self._search(query)

    async def _search(self, query: Query) -> Found:
        end = self._clock() + PATIENCE
        found: list[events.AnyEvent] = []
        high, window, looked = query.before - 1, FIRST_WINDOW, 0
        while high >= 0:
            low = max(-1, high - window)
            room = query.limit - len(found)
            hits, read, first = await self._window(query, low, high, room)
            looked += read
            found += reversed(hits)
            if len(hits) == room:
                # Of this window only the newest were kept: the next search begins below them.
                return Found(found, first if first > 0 else None, looked, first)
            high = low
            if self._clock() > end:
                break
            window *= 2 if read < DENSE else 1
        return Found(found, high + 1 if high >= 0 else None, looked, high + 1)

    async def _window(self, query: Query, low: int, high: int, room: int) -> tuple[list[events.AnyEvent], int, int]:
        """The newest ``room`` matches with ``low < offset <= high``, events read for it, and the offset of the oldest kept match."""
        kept: deque[events.AnyEvent] = deque(maxlen=room)
        read = 0
        async for event in self._context.aquery(kinds=query.kinds, runs=query.runs, after=low, upto=high):
            read += 1
            if read % BREATH == 0:
                await asyncio.sleep(0)
            if matches(event, query.words):
                kept.append(event)
        return list(kept), read, kept[0].offset if kept else low + 1
