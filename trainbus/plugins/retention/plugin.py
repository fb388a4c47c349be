"""The hooks of the retention plugin.

Events only change the book; deleting happens in the timer alone, which is never replayed, and only once every event that the journal
holds for this plugin has been seen: a plugin that catches up must not act on half a history.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

import msgspec

from trainbus.bus import events
from trainbus.hookspecs import Context, hookimpl
from trainbus.plugins.retention.config import RetentionConfig
from trainbus.plugins.retention.keeper import NAME, Keeper, RetentionStats
from trainbus.plugins.retention.records import Book
from trainbus.plugins.retention.requests import Requests
from trainbus.plugins.retention.storage import Space, Storage, space
from trainbus.plugins.retention.sweeper import Sweeper
from trainbus.plugins.retention.verifier import Verifier

KINDS = ("checkpoint", "eval", "run_started")
OFFSET_KEY = "offset"
CATCHING_UP = 1.0
"""Seconds until the next look while events are still to come, or a verification is under way."""


class RetentionPlugin:
    """Deletes the checkpoints that no policy keeps; in dry run, says which these are.

    Args:
        wall: Nanoseconds since the epoch.
        space: How full a disk is.
    """

    def __init__(self, wall: Callable[[], int] = time.time_ns, space: Space = space) -> None:
        self.config = RetentionConfig()
        self._wall = wall
        self._space = space
        self._host = socket.gethostname()

    @hookimpl
    def config_schema(self) -> type[msgspec.Struct]:
        """``[plugin.retention]``."""
        return RetentionConfig

    @hookimpl
    def start(self, context: Context) -> None:
        """Take the book back and go on with what lies in the trash."""
        self.config = context.config
        self.book = Book(self._host, context.state)
        self.sweeper = Sweeper(self.config.trash_bytes_per_second, context.logger)
        self.verifier = Verifier(context.logger)
        storage = Storage(NAME, wall=self._wall, space=self._space)
        self.keeper = Keeper(self.config, self.book, storage, self.sweeper, self.verifier, context, self._wall)
        self.requests = Requests(self.keeper, context, self._wall)
        self._turn = asyncio.Lock()
        self.sweeper.start()
        self.verifier.start()

    @hookimpl
    def stop(self, context: Context) -> None:
        """What is not deleted by now is deleted after the next start."""
        self.sweeper.close()
        self.verifier.close()

    @hookimpl
    def on_run_started(self, event: events.RunStarted, context: Context) -> None:
        """Note what the run resumed from."""
        self.book.run_started(event)
        context.state[OFFSET_KEY] = event.offset

    @hookimpl
    def on_checkpoint(self, event: events.Checkpoint, context: Context) -> None:
        """Note a checkpoint's state."""
        self.book.checkpoint(event)
        context.state[OFFSET_KEY] = event.offset

    @hookimpl
    def on_eval(self, event: events.Eval, context: Context) -> None:
        """Note a metric of a checkpoint."""
        self.book.evaluation(event)
        context.state[OFFSET_KEY] = event.offset

    @hookimpl
    async def on_command(self, event: events.Command, context: Context) -> None:
        """Pin, unpin or restore what a person asks for, and tell at once how things stand. Nothing is ever deleted here."""
        async with self._turn:
            if await self.requests.obey(event) and await self._seen_all(context):
                await self.keeper.look(act=False)

    @hookimpl
    async def every(self, context: Context) -> float:
        """Look at what could go; returns the seconds until the next look."""
        async with self._turn:
            if not await self._seen_all(context):
                return CATCHING_UP
            settled = await self.keeper.look() and not self.verifier.pending()
        return self.config.interval if settled else min(CATCHING_UP, self.config.interval)

    async def _seen_all(self, context: Context) -> bool:
        """Whether every event that the journal holds for this plugin has been seen."""
        async for _ in context.aquery(kinds=KINDS, after=int(context.state.get(OFFSET_KEY, -1))):
            return False
        return True

    def stats(self) -> RetentionStats:
        """Counts since this process began."""
        return self.keeper.stats()
