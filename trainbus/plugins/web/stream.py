"""Server-sent events: history from any offset, then live, without a seam."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from aiohttp import web

from trainbus.hookspecs import Context
from trainbus.plugins.web.encoding import event_json, to_json
from trainbus.plugins.web.feed import Listener
from trainbus.plugins.web.intake import Intake

T = TypeVar("T")

PING_SECONDS = 3.0
"""A page that hears nothing for 10 s calls itself stale, so a quiet bus must still be heard."""

WRITE_SECONDS = 30.0
"""A connection that takes nothing for so long is closed."""

FRAME_BYTES = 256 * 1024
"""Waiting events are written together up to this size."""


def frame(offset: int, body: bytes) -> bytes:
    """One event: its offset is the id from which a browser resumes."""
    return b"id: %d\ndata: %s\n\n" % (offset, body)


def note(name: str, **fields: object) -> bytes:
    """Something about the stream itself, which moves no id."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), to_json(fields | {"time": time.time_ns()}))


class EventStream:
    """One open stream.

    Args:
        after: The offset after which the client wants events; None for those from now on.
    """

    def __init__(self, request: web.Request, intake: Intake, context: Context, after: int | None) -> None:
        self.request = request
        self.intake = intake
        self.context = context
        self.after = after
        self.response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})

    async def run(self) -> web.StreamResponse:
        """Send events until the client goes or is too slow."""
        await self.response.prepare(self.request)
        try:
            await self._wait_for_history()
            await self._live(await self._catch_up())
        except (ConnectionError, TimeoutError):
            self._cut()
        return self.response

    async def _wait_for_history(self) -> None:
        """What a client may have missed is known only once the store is up to date."""
        while not self.intake.loaded.is_set():
            await self._write(note("loading", offset=self.intake.store.position, problem=self.intake.problem))
            await within(self.intake.loaded.wait(), PING_SECONDS)

    async def _catch_up(self) -> Listener:
        """Replay from the journal until nothing is missing, then join the live feed in the same moment."""
        feed = self.intake.feed
        sent = feed.position if self.after is None else self.after
        while sent < (upto := feed.position):
            async for event in self.context.aquery(after=sent, upto=upto):
                await self._write(frame(event.offset, event_json(event)))
            sent = upto
        return feed.join(self._cut)

    async def _live(self, listener: Listener) -> None:
        try:
            await self._write(note("ping", offset=self.intake.feed.position))
            async for frames in _batches(listener):
                await self._write(frames or note("ping", offset=self.intake.feed.position))
        finally:
            self.intake.feed.leave(listener)

    async def _write(self, data: bytes) -> None:
        async with asyncio.timeout(WRITE_SECONDS):
            await self.response.write(data)

    def _cut(self) -> None:
        if self.request.transport is not None:
            self.request.transport.abort()


async def within(work: Awaitable[T], seconds: float) -> T | None:
    """What ``work`` gives; None when it takes longer.

    Not `asyncio.wait_for`: on Python 3.11 it swallows a cancellation that comes in the moment in which ``work`` is done, and a stream
    that isn't ended keeps the plugin from stopping (https://github.com/python/cpython/issues/86296).
    """
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        return None


async def _batches(listener: Listener) -> AsyncIterator[bytes]:
    """Waiting events joined to frames; empty bytes after each `PING_SECONDS` without any."""
    while True:
        waiting = await within(listener.queue.get(), PING_SECONDS)
        if waiting is None:
            yield b""
            continue
        offset, body = waiting
        frames, size = [frame(offset, body)], len(body)
        while size < FRAME_BYTES and not listener.queue.empty():
            offset, body = listener.queue.get_nowait()
            frames.append(frame(offset, body))
            size += len(body)
        yield b"".join(frames)
