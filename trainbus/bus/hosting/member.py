"""A child that the supervisor keeps alive: its process, its output and the decisions about it, in one place."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from trainbus.bus import wire
from trainbus.bus.config import BusConfig
from trainbus.bus.events import DECODE_ERRORS
from trainbus.bus.home import read_connection
from trainbus.bus.hosting import process, report
from trainbus.bus.hosting.output import Output
from trainbus.bus.hosting.process import OPTIONS_VARIABLE
from trainbus.bus.hosting.supervision import Policy, Supervision
from trainbus.errors import UnreachableError

READY_POLL = 0.05
"""Seconds between looks at the connection file of a broker that starts."""

BROKER_FIRST_PAUSE = 0.1
BROKER_LONGEST_PAUSE = 5.0
"""Seconds. While the broker is away events wait in spools, so it comes back quickly and for ever."""

INCURABLE = frozenset({2, 5})
"""Exit codes (`trainbus.errors`) of a broker that would only say the same again: bad configuration or port, a journal it can't have."""


class Member:
    """Keeps one child running as its `Supervision` says.

    Args:
        name: In the output and the table.
        command: Makes the command line, anew for each start.
        environment: Of the child.
        changed: Called after every change of state.
    """

    reports = True
    """Whether it writes to a report pipe."""

    def __init__(
        self, name: str, supervision: Supervision, output: Output, environment: Mapping[str, str], changed: Callable[[Member], None]
    ) -> None:
        self.name = name
        self.supervision = supervision
        self.output = output
        self.child: process.Child | None = None
        self._environment = dict(environment)
        self._changed = changed
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def pid(self) -> int | None:
        """The child's process id while it lives."""
        return self.child.pid if self.child is not None else None

    async def keep(self) -> None:
        """Start it, wait for its end, start it again: as the supervision decides; for ever."""
        while True:
            self._wake.clear()
            due = self.supervision.next_start
            if due is not None and self.supervision.due(time.monotonic()):
                await self._live_once()
                continue
            timeout = None if due is None else max(0.0, due - time.monotonic())
            # Not wait_for(): in Python 3.11 it swallows a cancellation that comes together with what it waits for, and `stop` wakes
            # this task the moment before it is cancelled: `trainbus down` would wait for ever.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._wake.wait()

    async def stop(self, limit: float) -> None:
        """End it in order and keep it away; returns when it is gone, at the latest ``limit`` seconds and a margin later."""
        self.supervision.stop()
        self._wake.set()
        if self.child is not None:
            await self.child.stop(limit)
        await self._idle.wait()

    async def restart(self, limit: float) -> None:
        """End it in order and start it anew, forgetting its record."""
        await self.stop(limit)
        self.supervision.retry(time.monotonic())
        self._changed(self)
        self._wake.set()

    def kill(self) -> None:
        """End it now."""
        if self.child is not None:
            self.child.kill()

    def command(self) -> list[str]:
        """The command line of the next incarnation."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """The environment of the next incarnation."""
        return self._environment

    def reported(self, line: bytes) -> None:
        """A line of its report pipe."""

    async def born(self) -> None:
        """Runs beside each incarnation; cancelled when that ends."""

    def obituary(self, code: int) -> str:
        """Why it died, in one line."""
        last = next((line for line in reversed(self.output.last) if line.strip()), "")
        return f"{process.describe_exit(code)}: {last[:300]}" if last else process.describe_exit(code)

    async def _live_once(self) -> None:
        self._idle.clear()
        self.output.last.clear()
        try:
            self.child = await process.start(
                self.command(), output=self.output.feed, report=self._take if self.reports else None, environment=self.environment()
            )
        except OSError as error:  # no more processes or memory: it may be better in a while
            self.supervision.started(time.monotonic())
            self.supervision.exited(time.monotonic(), f"can't be started: {error}")
            self._idle.set()
            self._changed(self)
            return
        self.supervision.started(time.monotonic())
        self._changed(self)
        beside = asyncio.create_task(self.born())
        try:
            code = await self.child.wait()
        finally:
            beside.cancel()
        self.output.end()
        self.child = None
        self.supervision.exited(time.monotonic(), self.obituary(code))
        self._idle.set()
        self._changed(self)

    def _take(self, line: bytes) -> None:
        try:
            self.reported(line)
        except DECODE_ERRORS:
            self.output.say(f"unreadable report: {line[:200]!r}")


class PluginMember(Member):
    """One plugin host.

    Args:
        options: The table ``[plugin.NAME]``.
        file: Where they come from, for messages.
    """

    def __init__(
        self,
        name: str,
        output: Output,
        environment: Mapping[str, str],
        changed: Callable[[Member], None],
        *,
        root: Path,
        settings: BusConfig,
        options: dict[str, Any],
        file: str,
    ) -> None:
        super().__init__(name, Supervision(Policy(stuck_after=settings.stuck_after), time.monotonic()), output, environment, changed)
        self.options = options
        self.loaded: report.Hello | None = None
        self.progress = report.Progress(state="starting")
        self._root = root
        self._settings = settings
        self._file = file
        self._dead_letters = 0

    def command(self) -> list[str]:
        """Its host."""
        self.progress = report.Progress(state="starting")
        return [
            sys.executable, "-m", "trainbus.bus.hosting.host", self.name, "--root", str(self._root), "--file", self._file,
            "--settings", msgspec.json.encode(self._settings).decode(),
        ]  # fmt: skip

    def environment(self) -> dict[str, str]:
        """With its options, which may hold secrets: arguments can be read by everybody on the machine."""
        return {**super().environment(), OPTIONS_VARIABLE: msgspec.json.encode(self.options).decode()}

    def reported(self, line: bytes) -> None:
        """Handshake, refusal or progress."""
        said = report.decode(line)
        now = time.monotonic()
        before = self.supervision.state
        if isinstance(said, report.Hello):
            self.loaded = said
            self.supervision.loading(now)
        elif isinstance(said, report.Refusal):
            self.supervision.refused(said.error)
            if self.child is not None:
                self.child.ask_to_stop()  # a thread that the plugin's import left behind must not keep it
        else:
            self._dead_letters += max(0, said.dead_letters - self.progress.dead_letters)
            self.progress = said
            if said.state == "running":
                self.supervision.running(now, said.offset)
            else:
                self.supervision.loading(now)
        if self.supervision.state != before:
            self._changed(self)

    def obituary(self, code: int) -> str:
        """What its host said last, or how it died."""
        return self.progress.error or super().obituary(code)

    def status(self) -> wire.PluginStatus:
        """What people see of it."""
        progress, supervision = self.progress, self.supervision
        error = supervision.error or progress.error
        if not error and progress.since > self._settings.stuck_after:
            error = f"{progress.hook} has been waiting for {progress.since:.0f} s"
        return wire.PluginStatus(
            name=self.name,
            state=supervision.state,
            pid=self.pid,
            version=self.loaded.version if self.loaded is not None else "",
            lag=progress.lag,
            restarts=supervision.restarts,
            dead_letters=self._dead_letters,
            uptime=supervision.uptime(time.monotonic()),
            error=error,
            url=progress.url,
        )


class BrokerMember(Member):
    """The broker. ``given_up`` gets its exit code and last lines when it can't run at all."""

    reports = False  # its connection file says that it listens, its answers that it lives

    def __init__(
        self, output: Output, environment: Mapping[str, str], changed: Callable[[Member], None], *, root: Path, settings: BusConfig
    ) -> None:
        policy = Policy(stuck_after=settings.stuck_after, first_pause=BROKER_FIRST_PAUSE, longest_pause=BROKER_LONGEST_PAUSE, deaths=None)
        super().__init__("broker", Supervision(policy, time.monotonic()), output, environment, changed)
        self._root = root
        self._settings = settings
        self._was_ready = False
        self.ready = asyncio.Event()
        self.registered = False
        """Whether this incarnation knows its supervisor: only then do people's questions get through."""
        self.given_up: asyncio.Future[tuple[int, list[str]]] = asyncio.get_running_loop().create_future()

    def command(self) -> list[str]:
        """The broker's process."""
        config = msgspec.json.encode(self._settings).decode()
        return [sys.executable, "-m", "trainbus.bus.broker", "--root", str(self._root), "--config", config]

    async def born(self) -> None:
        """Wait until this incarnation listens."""
        self.ready.clear()
        while True:
            try:
                if read_connection(self._root).pid == self.pid:
                    break
            except UnreachableError:
                pass
            await asyncio.sleep(READY_POLL)
        self._was_ready = True
        self.supervision.running(time.monotonic())
        self.ready.set()
        self._changed(self)

    def obituary(self, code: int) -> str:
        """How it died; an incurable error before it ever listened ends everything."""
        self.ready.clear()
        self.registered = False
        if code in INCURABLE and not self._was_ready and self.supervision.wanted and not self.given_up.done():
            self.given_up.set_result((code, list(self.output.last)))
            self.supervision.refused(super().obituary(code))
        return super().obituary(code)
