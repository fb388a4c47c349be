"""The process in which one plugin runs: ``python -m trainbus.bus.hosting.host NAME --root DIR --options JSON``.

Loads and checks the plugin, tells the supervisor in one line what it is (or why it is none), then hands it every event of its kinds
from its durable cursor on. See `delivery` for what happens to an event that kills the plugin, `lifeline` for how the host ends.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import inspect
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from trainbus.bus.client import AsyncClient
from trainbus.bus.config import BusConfig
from trainbus.bus.events import AnyEvent
from trainbus.bus.home import home, private_directory
from trainbus.bus.hosting import registry, report
from trainbus.bus.hosting.context import HostContext
from trainbus.bus.hosting.delivery import Delivery
from trainbus.bus.hosting.dispatch import Dispatcher, dead_letter_alert
from trainbus.bus.hosting.inflight import InflightFile
from trainbus.bus.hosting.lifeline import Lifeline
from trainbus.bus.hosting.loading import Loaded, load
from trainbus.bus.hosting.state import StateBatch, StateStore
from trainbus.bus.publisher import Publisher
from trainbus.bus.subscriber import AsyncSubscriber
from trainbus.errors import TrainbusError, UnreachableError

COMMIT_INTERVAL = 0.05
"""Seconds between commits of the cursor: what a sudden death can make come again. Each commit is a disk sync of the broker."""

YIELD_INTERVAL = 0.02
"""Seconds of hooks after which the loop gets a turn: while a plugin catches up, nothing else would make one."""

PROGRESS_INTERVAL = 1.0
RETRY_PAUSE = 0.5
"""Seconds before a request is repeated when no broker answers."""

TIMER_RETRY = 60.0
"""Seconds until a timer that raised is called again."""


class Host:
    """One plugin at work. `run` returns the exit code.

    Args:
        loaded: The plugin.
        root: The home directory.
        settings: The section ``[bus]``.
        pipe: Where progress is reported.
        marks: What survives this process.
        logger: The plugin's logger.
    """

    def __init__(
        self, loaded: Loaded, root: Path, settings: BusConfig, pipe: report.ReportPipe, marks: InflightFile, logger: logging.Logger
    ) -> None:
        self._loaded = loaded
        self._root = root
        self._settings = settings
        self._pipe = pipe
        self._marks = marks
        self._logger = logger
        self._consumer = f"plugin:{loaded.name}"
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._progress = report.Progress(state="starting")
        self._busy = False
        self._staged: tuple[int, StateBatch] | None = None
        self._committed = -1

    def request_stop(self) -> None:
        """Finish the current hook and end. Safe from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop may just have been closed
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def run(self) -> int:
        """Run until asked to stop (0), or until something makes going on impossible (raises)."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stopping.set)
        ticker = asyncio.create_task(self._tick())
        client = AsyncClient(root=self._root)
        publisher = Publisher("", name=self._consumer, root=self._root, settings=self._settings)
        try:
            return await self._serve(client, publisher)
        except Exception as error:
            self._report(error=_one_line(error))
            raise
        finally:
            ticker.cancel()
            publisher.close(timeout=self._settings.stop_timeout / 4)
            await client.close()

    async def _serve(self, client: AsyncClient, publisher: Publisher) -> int:
        cursor = await self._until_stopped(self._open_cursor(client))
        if cursor is None:
            return 0
        self._client = client
        self._marks.bind(cursor.journal)
        self._state = StateStore(cursor.state, self._logger, self._changed.set)
        self._delivery = Delivery(cursor.offset, self._marks, self._settings.max_deliver)
        self._committed = cursor.offset
        directory = private_directory(self._root / "plugins" / self._loaded.name)
        self._context = HostContext(
            self._loaded.name,
            self._loaded.config,
            root=self._root,
            directory=directory,
            logger=self._logger,
            state=self._state,
            publisher=publisher,
            client=client,
            announced=self._announced,
        )
        self._dispatcher = Dispatcher(self._loaded, self._context, self._delivery, self._logger)
        if self._delivery.died_on is not None:
            died = self._delivery.died_on
            times = self._delivery.attempts(died.offset)
            self._logger.warning("the last host died in %s on the event at offset %d (%d times so far)", died.hook, died.offset, times)
        await self._call("start")
        self._report(state="running")
        tasks = [asyncio.create_task(self._commit_forever()), asyncio.create_task(self._timer())]
        if self._loaded.kinds is not None:
            tasks.append(asyncio.create_task(self._read(self._loaded.kinds)))
        try:
            await self._watch(tasks)
        finally:
            await self._end(tasks)
        return 0

    async def _watch(self, tasks: list[asyncio.Task[None]]) -> None:
        """Until a stop is asked for; raises what a task raised."""
        stopping = asyncio.create_task(self._stopping.wait())
        waiting: set[asyncio.Task[Any]] = {stopping, *tasks}
        while not stopping.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        """Let the hook at work finish (half of the time), call the stop hook, make the cursor durable."""
        deadline = time.monotonic() + self._settings.stop_timeout
        self._report(state="stopping")
        while self._busy and not tasks[-1].done() and time.monotonic() < deadline - self._settings.stop_timeout / 2:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._stage()
        try:
            async with asyncio.timeout_at(self._loop.time() + max(0.1, deadline - time.monotonic())):
                with contextlib.suppress(Exception):  # logged where it was raised
                    await self._call("stop")
                self._stage()
                await self._context.settle(1.0)
                await self._commit()
        except (TimeoutError, TrainbusError) as error:
            self._logger.warning("the end was cut short; the last events come again at the next start: %s", _one_line(error))

    async def _open_cursor(self, client: AsyncClient) -> Any:
        while True:
            try:
                return await client.open_cursor(self._consumer)
            except UnreachableError as error:
                self._progress.error = error.problem
                await asyncio.sleep(RETRY_PAUSE)

    async def _read(self, kinds: tuple[str, ...]) -> None:
        """Hand out events, for ever."""
        turn = time.monotonic()
        async with AsyncSubscriber(kinds, consumer=self._consumer, root=self._root) as self._subscriber:
            async for event in self._subscriber:
                await self._deliver(event)
                if self._stopping.is_set():
                    return
                now = time.monotonic()
                if now - turn > YIELD_INTERVAL:
                    turn = now
                    await asyncio.sleep(0)

    async def _deliver(self, event: AnyEvent) -> None:
        verdict = self._delivery.admit(event.offset)
        if verdict == "skip":
            return
        if verdict == "bury":
            await self._bury(event.offset)
        else:
            if self._dispatcher.may_wait(event):
                self._stage()  # what came before must become durable while this hook waits, however long
            self._busy = True
            try:
                await self._dispatcher.handle(event)
            except asyncio.CancelledError:
                self._delivery.abandon()
                raise
            finally:
                self._busy = False
        if not self._changed.is_set():
            self._changed.set()

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
        if self._staged is None:
            return
        (offset, batch), self._staged = self._staged, None
        if offset <= self._committed and not batch:
            return
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
            if not self._busy:
                self._stage()
            try:
                await self._commit()
            except UnreachableError:
                self._changed.set()
                await asyncio.sleep(RETRY_PAUSE)

    async def _timer(self) -> None:
        """Call `every`, as often as it asks for."""
        if "every" not in self._loaded.hooks:
            return
        while True:
            try:
                answers = [answer for answer in await self._call("every") if answer is not None]
            except Exception:  # noqa: BLE001 - logged and counted where it was raised
                answers = [TIMER_RETRY]
            if not answers:
                return
            await asyncio.sleep(max(0.0, float(answers[0])))

    async def _call(self, hook: str) -> list[Any]:
        """Call a hook that has no event; logs and passes on what it raises."""
        if hook not in self._loaded.hooks:
            return []
        try:
            answers = getattr(self._loaded.manager.hook, hook)(context=self._context)
            return [await answer if inspect.isawaitable(answer) else answer for answer in answers]
        except Exception as error:
            self._dispatcher.failed(hook, error)
            raise

    async def _tick(self) -> None:
        """Report progress for as long as the loop turns."""
        while True:
            await asyncio.sleep(PROGRESS_INTERVAL)
            self._follow_position()
            self._report()

    def _follow_position(self) -> None:
        """The cursor follows over events that are of no interest to this plugin, so that they don't count as lag or hold up retention."""
        subscriber = getattr(self, "_subscriber", None)
        if subscriber is None or self._busy:
            return
        stats = subscriber.stats()
        self._progress.lag = max(0, stats.head - stats.position)

    def _report(self, state: Any = None, error: str = "") -> None:
        progress = self._progress
        progress.state = state or progress.state
        progress.error = error or ("" if progress.state == "running" else progress.error)
        delivery = getattr(self, "_delivery", None)
        if delivery is not None:
            stats = delivery.stats()
            progress.offset, progress.handled, progress.dead_letters = stats.finished, stats.handled, stats.buried
        dispatcher = getattr(self, "_dispatcher", None)
        if dispatcher is not None:
            progress.errors, progress.hook = dispatcher.errors, dispatcher.hook
            progress.since = 0.0 if dispatcher.waiting_since is None else time.monotonic() - dispatcher.waiting_since
        self._pipe.write(progress)

    def _announced(self, url: str) -> None:
        self._progress.url = url
        self._report()

    async def _until_stopped(self, work: Any) -> Any:
        """The result of ``work``, or None when a stop is asked for first."""
        working = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stopping.wait())
        done, _ = await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in (working, stopping):
            task.cancel()
        return working.result() if working in done else None
