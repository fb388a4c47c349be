"""Live events to any number of open pages, none of which can slow the others or the plugin."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import Struct

from trainbus.bus import events
from trainbus.plugins.web.encoding import event_json

WAITING_EVENTS = 2_000
"""Events that may wait for one page: some seconds of a busy bus. A page that is further behind is cut off; it comes back by its last id."""


class FeedStats(Struct, frozen=True):
    """``dropped``: listeners that were cut off because they read too slowly."""

    listeners: int
    sent: int
    dropped: int


class Listener:
    """One open stream: a bounded queue of (offset, JSON).

    Args:
        cut: Ends the stream's connection; called once, when the queue is full.
    """

    def __init__(self, cut: Callable[[], None]) -> None:
        self.queue: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue(WAITING_EVENTS)
        self.cut = cut


class Feed:
    """Hands each event, encoded once, to all listeners."""

    def __init__(self) -> None:
        self.position = -1
        self._listeners: set[Listener] = set()
        self._sent = 0
        self._dropped = 0

    def send(self, event: events.AnyEvent) -> None:
        """Pass on an event. Never waits: a listener whose queue is full is cut off."""
        if event.offset <= self.position:
            return
        self.position = event.offset
        if not self._listeners:
            return
        body = event_json(event)
        for listener in list(self._listeners):
            try:
                listener.queue.put_nowait((event.offset, body))
                self._sent += 1
            except asyncio.QueueFull:
                self._listeners.discard(listener)
                self._dropped += 1
                listener.cut()

    def join(self, cut: Callable[[], None]) -> Listener:
        """A new listener, which gets the events after the present `position`."""
        listener = Listener(cut)
        self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """Forget a listener; no error when it was cut off."""
        self._listeners.discard(listener)

    def stats(self) -> FeedStats:
        """How many listen, and how many were too slow."""
        return FeedStats(listeners=len(self._listeners), sent=self._sent, dropped=self._dropped)
