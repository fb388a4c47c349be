"""A plugin at work, once its cursor is open: events in, hooks called, cursor and state made durable together."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from trainbus.bus import wire
from trainbus.bus.client import AsyncClient
from trainbus.bus.config import BusConfig
from trainbus.bus.events import URGENT, AnyEvent
from trainbus.bus.home import private_directory
from trainbus.bus.hosting.context import HostContext
from trainbus.bus.hosting.delivery import Delivery
from trainbus.bus.hosting.dispatch import Dispatcher, dead_letter_alert
from trainbus.bus.hosting.inflight import InflightFile
from trainbus.bus.hosting.loading import Loaded
from trainbus.bus.hosting.report import Progress
from trainbus.bus.hosting.silent import SilentPublisher
from trainbus.bus.hosting.state import StateBatch, StateStore
from trainbus.bus.publisher import Publisher
from trainbus.bus.subscriber import AsyncSubscriber
from trainbus.errors import TrainbusError, UnreachableError

COMMIT_INTERVAL = 0.05
"""Seconds between commits of the cursor: what a sudden death can make come again. Each commit is a disk sync of the broker."""

QUIET_COMMIT_INTERVAL = 1.0
"""The same while hooks only take events in, which may come again without harm: nothing was published, asked for, or written to the
state, no event was urgent, and no hook a coroutine. A step a moment is not worth a disk sync each."""

YIELD_INTERVAL = 0.02
"""Seconds of hooks after which the loop gets a turn: while a plugin catches up, nothing else would make one."""

IDLE_AFTER = 1.0
"""Seconds without an event of its kinds after which a plugin's cursor follows the others."""

RETRY_PAUSE = 0.5
"""Seconds before a request is repeated when no broker answers."""

TIMER_RETRY = 60.0
"""Seconds until a timer that raised is called again."""


class Serving:
    """Hands events to one plugin.

    Args:
        loaded: The plugin.
        cursor: Its durable cursor, just opened.
        marks: What survives this process.
        announced: Told an address at which people reach the plugin.
    """

    def __init__(
        self,
        loaded: Loaded,
        cursor: wire.Cursor,
        marks: InflightFile,
        *,
        root: Path,
        settings: BusConfig,
        client: AsyncClient,
        publisher: Publisher | SilentPublisher,
        logger: logging.Logger,
        announced: Callable[[str], None],
    ) -> None:
        self._loaded = loaded
        self._root = root
        self._settings = settings
        self._client = client
        self._logger = logger
        self._consumer = cursor.consumer
        self._journal = cursor.journal
        self._stopping = False
        self._changed = asyncio.Event()
        self._quietly_changed: asyncio.TimerHandle | None = None
        self._busy = False
        self._staged: tuple[int, StateBatch] | None = None
        self._committed = cursor.offset
        self._subscriber: AsyncSubscriber | None = None
        self._tasks: list[asyncio.Task[None]] = []
        marks.bind(cursor.journal)
        self._state = StateStore(cursor.state, logger, self._changed.set)
        self._delivery = Delivery(cursor.offset, marks, settings.max_deliver)
        self._context = HostContext(
            loaded.name,
            loaded.config,
            root=root,
            directory=private_directory(root / "plugins" / loaded.name),
            logger=logger,
            state=self._state,
            publisher=publisher,
            client=client,
            announced=announced,
            journal=cursor.journal,
        )
        self._dispatcher = Dispatcher(loaded, self._context, self._delivery, logger)

    async def start(self) -> None:
        """Call the start hook, then begin to read. What the hook raises ends the host."""
        if (died := self._delivery.died_on) is not None:
            times = self._delivery.attempts(died.offset)
            self._logger.warning("the last host died in %s on the event at offset %d (%d times so far)", died.hook, died.offset, times)
        await self._call("start")
        self._tasks = [asyncio.create_task(self._commit_forever()), asyncio.create_task(self._timer())]
        if self._loaded.kinds is not None:
            self._tasks.append(asyncio.create_task(self._read(self._loaded.kinds)))

    async def until(self, stopping: asyncio.Event) -> None:
        """Serve until a stop is asked for; raises what makes going on impossible."""
        asked = asyncio.create_task(stopping.wait())
        waiting: set[asyncio.Task[Any]] = {asked, *self._tasks}
        try:
            while not asked.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            asked.cancel()

    async def end(self) -> None:
        """Let the hook at work finish (in half of the time), call the stop hook, make the cursor durable."""
        limit = self._settings.stop_timeout
        deadline = time.monotonic() + limit
        self._stopping = True
        while self._busy and time.monotonic() < deadline - limit / 2:
            await asyncio.sleep(0.01)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._stage()
        try:
            async with asyncio.timeout(max(0.1, deadline - time.monotonic())):
                await self._call_quietly("stop")
                self._stage()
                await self._context.settle(1.0)
                await self._commit()
        except (TimeoutError, TrainbusError) as error:
            self._logger.warning("the end was cut short; the last events come again at the next start (%s)", error or "too slow")

    def fill(self, progress: Progress) -> None:
        """Say how far it is."""
        stats = self._delivery.stats()
        progress.offset, progress.handled, progress.dead_letters = stats.finished, stats.handled, stats.buried
        progress.errors, progress.hook = self._dispatcher.errors, self._dispatcher.hook
        since = self._dispatcher.waiting_since
        progress.since = 0.0 if since is None else time.monotonic() - since
        if self._subscriber is not None:
            progress.lag = self._subscriber.stats().lag

    async def _read(self, kinds: tuple[str, ...]) -> None:
        """Hand out events until asked to stop."""
        turn = time.monotonic()
        # Not by the subscriber's own durable cursor: ours moves together with the plugin's state, after the hooks.
        async with AsyncSubscriber(kinds, start=self._committed, journal=self._journal, root=self._root) as subscriber:
            self._subscriber = subscriber
            while not self._stopping:
                try:
                    event = await subscriber.next(IDLE_AFTER)
                except msgspec.DecodeError as error:
                    self._logger.error("an event is passed over that this version can't read: %s", error)  # noqa: TRY400 - one line
                    continue
                if event is None:
                    self._idle(subscriber.stats().position)
                    continue
                await self._deliver(event)
                now = time.monotonic()
                if now - turn > YIELD_INTERVAL:
                    turn = now
                    await asyncio.sleep(0)

    def _idle(self, position: int | None) -> None:
        """Nothing waits for this plugin: its cursor follows over events of other kinds, so that it does not hold up retention."""
        if position is not None and position > self._delivery.finished:
            self._delivery.pass_over(position)
            self._changed.set()

    async def _deliver(self, event: AnyEvent) -> None:
        verdict = self._delivery.admit(event.offset)
        if verdict == "skip":
            return
        quiet = False
        if verdict == "bury":
            await self._bury(event.offset)
        else:
            may_wait, acts = self._dispatcher.may_wait(event), self._context.acts
            if may_wait:
                self._stage()  # what came before must become durable while this hook waits, however long
                self._changed.set()
            self._busy = True
            try:
                await self._dispatcher.handle(event)
            except asyncio.CancelledError:
                self._delivery.abandon()
                raise
            finally:
                self._busy = False
            quiet = not may_wait and event.kind not in URGENT and acts == self._context.acts
        if not quiet:
            self._changed.set()
        elif self._quietly_changed is None and not self._changed.is_set():
            self._quietly_changed = asyncio.get_running_loop().call_later(QUIET_COMMIT_INTERVAL, self._changed.set)

    async def _bury(self, offset: int) -> None:
        """Set an event aside that this plugin keeps dying on. Durable before the cursor passes it."""
        attempts = self._delivery.attempts(offset)
        reason = f"the plugin died {attempts} times on it"
        while True:
            try:
                await self._client.add_dead_letter(self._consumer, offset, attempts, reason)
                break
            except UnreachableError:
                await asyncio.sleep(RETRY_PAUSE)
        self._logger.error("the event at offset %d goes to the dead letters: %s", offset, reason)
        died = self._delivery.died_on
        hook = died.hook if died is not None and died.offset == offset else ""
        self._context.publish(dead_letter_alert(self._loaded.name, offset, attempts, hook))
        self._delivery.bury(offset)

    def _stage(self) -> None:
        """Take cursor and state as they are between two events, to be committed together."""
        self._staged = (self._delivery.finished, self._state.stage())

    async def _commit(self) -> None:
        staged = self._staged
        if staged is None or (staged[0] <= self._committed and not staged[1]):
            return
        offset, batch = staged
        await self._client.commit_cursor(self._consumer, offset, batch)
        self._committed = max(self._committed, offset)
        self._state.saved(batch)
        self._delivery.committed(offset)

    async def _commit_forever(self) -> None:
        """Make cursor and state durable, soon after they changed."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(COMMIT_INTERVAL)
            self._changed.clear()
            if self._quietly_changed is not None:
                self._quietly_changed.cancel()
                self._quietly_changed = None
            if not self._busy:
                self._stage()
            try:
                await self._commit()
            except UnreachableError:
                self._changed.set()
                await asyncio.sleep(RETRY_PAUSE)

    async def _timer(self) -> None:
        """Call `every`, as often as it asks for."""
        while "every" in self._loaded.hooks:
            answers = await self._call_quietly("every")
            if answers is None:
                pause = TIMER_RETRY
            elif answers:
                pause = float(answers[0])
            else:
                return
            await asyncio.sleep(max(0.0, pause))

    async def _call_quietly(self, hook: str) -> list[Any] | None:
        """As `_call`; None when the hook raised (which is logged, counted and reported)."""
        with contextlib.suppress(Exception):
            return await self._call(hook)
        return None

    async def _call(self, hook: str) -> list[Any]:
        """Call a hook that has no event: its answers without None. Logs and passes on what it raises."""
        if hook not in self._loaded.hooks:
            return []
        try:
            answers = getattr(self._loaded.manager.hook, hook)(context=self._context)
            answers = [await answer if inspect.isawaitable(answer) else answer for answer in answers]
        except Exception as error:
            self._dispatcher.failed(hook, error)
            raise
        return [answer for answer in answers if answer is not None]
