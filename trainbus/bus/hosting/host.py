"""The process in which one plugin runs: ``python -m trainbus.bus.hosting.host NAME --root DIR``.

Loads and checks the plugin, tells the supervisor in one line what it is (or why it is none), opens its cursor and serves it events
until it is asked to stop: by SIGTERM, SIGINT, or the end of the lifeline.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from trainbus.bus.client import AsyncClient
from trainbus.bus.config import BusConfig
from trainbus.bus.credentials import chosen, consumer_of
from trainbus.bus.home import home, private_directory
from trainbus.bus.hosting import registry, report
from trainbus.bus.hosting.inflight import InflightFile
from trainbus.bus.hosting.lifeline import Lifeline, leave_nothing
from trainbus.bus.hosting.loading import Loaded, load
from trainbus.bus.hosting.process import OPTIONS_VARIABLE
from trainbus.bus.hosting.serving import RETRY_PAUSE, Serving
from trainbus.bus.hosting.silent import SilentPublisher
from trainbus.bus.publisher import Publisher
from trainbus.bus.wire import Cursor
from trainbus.errors import TrainbusError, UnreachableError

PROGRESS_INTERVAL = 1.0
"""Seconds between lines of progress."""

T = TypeVar("T")


class Host:
    """The life of one plugin in this process.

    Args:
        loaded: The plugin.
        root: The home directory.
        settings: The section ``[bus]``.
        pipe: Where progress is reported.
        marks: What survives this process.
    """

    def __init__(self, loaded: Loaded, root: Path, settings: BusConfig, pipe: report.ReportPipe, marks: InflightFile) -> None:
        self._loaded = loaded
        self._root = root
        self._settings = settings
        self._pipe = pipe
        self._marks = marks
        self._logger = logging.getLogger(loaded.name)
        self._progress = report.Progress(state="starting")
        self._serving: Serving | None = None
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()

    def request_stop(self) -> None:
        """Finish the current hook and end. Safe from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop may just have been closed
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def run(self) -> None:
        """Serve until asked to stop; raises what makes going on impossible."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stopping.set)
        ticker = asyncio.create_task(self._tick())
        client = AsyncClient(root=self._root)
        publisher = self._publisher()
        try:
            await self._serve(client, publisher)
        except Exception as error:
            self._progress.error = one_line(error)
            raise
        finally:
            self._report("stopping")
            ticker.cancel()
            publisher.close(timeout=self._settings.stop_timeout / 4)
            await client.close()

    def _publisher(self) -> Publisher | SilentPublisher:
        key = chosen(self._root)
        if key is not None and key.role == "observer":
            return SilentPublisher(key.name, self._logger)
        return Publisher("", name=f"plugin:{self._loaded.name}", root=self._root, settings=self._settings)

    async def _serve(self, client: AsyncClient, publisher: Publisher | SilentPublisher) -> None:
        cursor = await self._unless_stopped(self._open_cursor(client))
        if cursor is None:
            return
        self._serving = Serving(
            self._loaded,
            cursor,
            self._marks,
            root=self._root,
            settings=self._settings,
            client=client,
            publisher=publisher,
            logger=self._logger,
            announced=self._announced,
        )
        await self._unless_stopped(self._serving.start())
        self._progress.error = ""
        self._report("running")
        try:
            await self._serving.until(self._stopping)
        finally:
            self._report("stopping")
            await self._serving.end()

    async def _open_cursor(self, client: AsyncClient) -> Cursor:
        while True:
            try:
                return await client.open_cursor(consumer_of(self._loaded.name, self._root))
            except UnreachableError as error:
                self._progress.error = error.problem
                await asyncio.sleep(RETRY_PAUSE)

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of ``work``; None when a stop is asked for first (``work`` is then cancelled)."""
        working = asyncio.create_task(work)
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if working.done():
            return working.result()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        return None

    async def _tick(self) -> None:
        """Report for as long as the loop turns: that is how liveness is judged."""
        while True:
            await asyncio.sleep(PROGRESS_INTERVAL)
            self._report(self._progress.state)

    def _announced(self, url: str) -> None:
        self._progress.url = url
        self._report(self._progress.state)

    def _report(self, state: report.HostState) -> None:
        self._progress.state = state
        if self._serving is not None:
            self._serving.fill(self._progress)
        self._pipe.write(self._progress)


def one_line(error: BaseException) -> str:
    """An exception as one line for a status table."""
    if isinstance(error, TrainbusError):
        return error.problem
    return f"{type(error).__name__}: {error}".splitlines()[0][:500]


def main(arguments: Sequence[str] | None = None, options: dict[str, Any] | None = None) -> int:
    """Run one plugin; the exit code.

    Args:
        arguments: As of a command line.
        options: The table ``[plugin.NAME]``; by default what `OPTIONS_VARIABLE` holds.
    """
    chosen = _parser().parse_args(arguments)
    given = os.environ.pop(OPTIONS_VARIABLE, "{}")  # not for the processes that the plugin starts
    root = private_directory(chosen.root or home())
    attached = chosen.report is None
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s" if attached else "%(levelname)s %(name)s: %(message)s",
    )
    settings = msgspec.json.decode(chosen.settings, type=BusConfig)
    # The lifeline comes before the plugin: importing it may hang, and must not outlive the supervisor either.
    lifeline = None if chosen.lifeline is None else Lifeline(chosen.lifeline, settings.stop_timeout, stop=lambda: os._exit(0))
    pipe = report.ReportPipe(chosen.report)
    marks: InflightFile | None = None
    try:
        plugin = registry.development(chosen.target, chosen.name) if chosen.target else registry.find(chosen.name)
        marks = InflightFile(root / "plugins" / plugin.name / "inflight", plugin.name)
        loaded = load(plugin, msgspec.json.decode(given, type=dict[str, Any]) if options is None else options, file=chosen.file)
        pipe.handshake(report.hello(loaded))
    except TrainbusError as error:
        if error.__cause__ is not None:
            traceback.print_exception(error.__cause__)  # the plugin's own: for its author, in its log
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the host's stderr is the plugin's log
        pipe.handshake(report.refusal(error))
        return error.exit_code
    try:
        asyncio.run(_run(loaded, root, settings, pipe, marks, lifeline))
    except TrainbusError as error:
        logging.getLogger(plugin.name).error("%s", error)  # noqa: TRY400 - a sentence for people
        return error.exit_code
    except Exception:
        logging.getLogger(plugin.name).exception("the host ends")
        return 1
    finally:
        marks.close()
        if lifeline is not None:
            leave_nothing()
    return 0


async def _run(
    loaded: Loaded, root: Path, settings: BusConfig, pipe: report.ReportPipe, marks: InflightFile, lifeline: Lifeline | None
) -> None:
    host = Host(loaded, root, settings, pipe, marks)
    if lifeline is not None:
        lifeline.stop = host.request_stop
        # A hook that is cut off by an orderly stop did not die of its event: the attempt must not count.
        lifeline.last = marks.clear
    await host.run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trainbus-host", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--settings", default="{}", help="the section [bus] as JSON")
    parser.add_argument("--file", default="", help="where the options come from, for messages")
    parser.add_argument("--target", default="", help="module:object of a plugin in development, instead of an entry point")
    parser.add_argument("--lifeline", type=int, help="file descriptor that ends with the supervisor")
    parser.add_argument("--report", type=int, help="file descriptor for lines of progress")
    return parser


if __name__ == "__main__":
    sys.exit(main())
