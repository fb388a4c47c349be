"""Joins the journal's history with live events, so that the store sees each event once, in order, and nobody waits for the history.

After a restart the plugin's cursor lies behind events that the store, which lives in memory, has not seen. They are read in the
background, page by page. Live events that arrive meanwhile are not kept for later: the journal has them, so the reading simply goes
on until it has passed the last one that was seen live. Memory stays bounded however long that takes.
"""

from __future__ import annotations

import asyncio

from trainbus.bus import events
from trainbus.hookspecs import Context
from trainbus.plugins.web.feed import Feed
from trainbus.plugins.web.store import Store

BREATH = 500
"""Events of history between two chances for requests and live events."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between two tries to read the history while the broker does not answer."""


class Intake:
    """Feeds the store and the live feed.

    Attributes:
        loaded: Set once the store knows the whole history; from then on it follows the live events.
    """

    def __init__(self, store: Store, feed: Feed) -> None:
        self.store = store
        self.feed = feed
        self.loaded = asyncio.Event()
        self.problem = ""
        self._seen = -1

    def live(self, event: events.AnyEvent) -> None:
        """An event from the bus. Repeats (after a crash) change nothing."""
        self._seen = max(self._seen, event.offset)
        if self.loaded.is_set() or event.offset < 0:
            self.store.apply(event)
        self.feed.send(event)

    async def load(self, context: Context) -> None:
        """Read the history until it meets the live events; returns when `loaded` is set. Outlives an unreachable broker."""
        pause = FIRST_PAUSE
        while True:
            before = self.store.position
            try:
                await self._read(context)
            except Exception as error:  # noqa: BLE001 - whatever ails the broker, a page without history beats none; it is shown
                self.problem = f"History can't be read: {error}"
                context.logger.warning("%s; trying again in %g s", self.problem, pause)
                await asyncio.sleep(pause)
                pause = min(LONGEST_PAUSE, pause * 2)
                continue
            self.problem, pause = "", FIRST_PAUSE
            # No progress although live events lie ahead: they were deleted from the journal meanwhile.
            if self.store.position >= self._seen or self.store.position == before:
                break
        self.feed.position = max(self.feed.position, self.store.position)
        self.loaded.set()

    async def _read(self, context: Context) -> None:
        count = 0
        async for event in context.aquery(after=self.store.position):
            self.store.apply(event)
            count += 1
            if count % BREATH == 0:
                await asyncio.sleep(0)
