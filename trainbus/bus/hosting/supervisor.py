"""The parent of broker and plugin hosts on one machine: starts them, keeps them alive, changes them while they run, ends them in order.

Decisions are `supervision`'s, processes `member`'s; this file ties them to the bus, to the configuration and to signals.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from trainbus.bus import wire
from trainbus.bus.config import BusConfig, Config
from trainbus.bus.drain import DrainReport, drain_orphans
from trainbus.bus.home import private_directory
from trainbus.bus.hosting import registry
from trainbus.bus.hosting.announcer import Announcer
from trainbus.bus.hosting.control import Control
from trainbus.bus.hosting.enabled import disable, enable
from trainbus.bus.hosting.instance import InstanceLock, Running, write_running
from trainbus.bus.hosting.member import BrokerMember, Member, PluginMember
from trainbus.bus.hosting.output import COLOURS, KeptLog, Output
from trainbus.bus.hosting.upkeep import tidy
from trainbus.bus.publisher import Publisher
from trainbus.errors import ConfigError, JournalError, PluginError, RefusedError, TrainbusError

TICK = 0.5
"""Seconds between looks for hanging children and for changes worth an event."""

DRAIN_SECONDS = 5.0
"""Between looks for spools whose owner died."""

TIDY_SECONDS = 3600.0
"""Between looks for logs beyond their bounds and for leftovers."""

SETTLE = 7.0
"""Seconds that the answer to `add` or `restart` waits for the plugin to load; below the 10 s that a caller waits."""

LOG_LINES = 200
"""Lines that `log` answers with when it is not told how many."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where the configuration comes from. ``load`` reads it anew (raising `ConfigError`); ``file`` is what `add` and `remove` edit."""

    load: Callable[[], Config]
    file: Path | None = None


class Supervisor:
    """Everything that `trainbus up` runs.

    Args:
        config: What to start with.
        root: The home directory.
        source: For `reload`, and for `add` and `remove` that last.
        console: Where the children's output is shown; None: in the kept logs only.
    """

    def __init__(self, config: Config, root: Path, *, source: Source | None = None, console: Console | None = None) -> None:
        self._config = config
        self._root = private_directory(root)
        self._source = source
        self._console = console
        self._colours = itertools.cycle(COLOURS)
        self._environment = {**os.environ, "TRAINBUS_HOME": str(root), "PYTHONUNBUFFERED": "1"}
        self._own = self._output("trainbus", "white")
        self._broker = BrokerMember(self._output("broker", "white"), self._environment, self._changed, root=root, settings=config.bus)
        self._plugins: dict[str, PluginMember] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._announcer = Announcer()
        self._publisher = Publisher("", name="supervisor", root=root, settings=config.bus)
        self._control = Control(root, self.answer, self._broker_answered)
        self._stopping = asyncio.Event()
        self._enough = threading.Event()
        self._changing = asyncio.Lock()
        self._started = time.time_ns()
        self._written = b""
        self._write_failed = False

    async def run(self) -> None:
        """Until SIGTERM, SIGINT or `down`.

        Raises:
            TrainbusError: The broker can't run, and says why.
        """
        self._on_signals()
        self._keep(self._broker)
        for name in self._config.plugins:
            self._add(name)
        self._write()
        beside = [asyncio.create_task(work) for work in (self._control.serve(), self._tick(), self._drain(), self._tidy())]
        try:
            await self._until_stopped()
        finally:
            await self._end(beside)

    async def answer(self, request: wire.Supervise) -> Any:
        """Do what a `Supervise` call asks. Calls that change something wait for each other.

        Raises:
            TrainbusError: It can't be done; nothing has changed.
        """
        if request.verb == "plugins":
            return self.statuses()
        if request.verb == "installed":
            return [{"name": one.name, "distribution": one.distribution, "version": one.version} for one in registry.installed().values()]
        if request.verb == "log":
            return self._find(request.name).output.tail(request.arguments.get("lines", LOG_LINES))
        if request.verb == "down":
            asyncio.get_running_loop().call_later(0.1, self._stopping.set)  # the answer goes out first
            return self.statuses()
        verbs: dict[str, Callable[[wire.Supervise], Awaitable[Any]]] = {
            "add": self._answer_add,
            "remove": self._answer_remove,
            "restart": self._answer_restart,
            "reload": self._answer_reload,
        }
        if request.verb not in verbs:
            raise RefusedError(
                f"The supervisor knows no {request.verb!r}.", hint=f"It knows: plugins, installed, log, down, {', '.join(verbs)}."
            )
        async with self._changing:
            return await verbs[request.verb](request)

    def statuses(self) -> list[wire.PluginStatus]:
        """Every plugin, in the order of the configuration."""
        return [member.status() for member in self._plugins.values()]

    async def _answer_add(self, request: wire.Supervise) -> wire.PluginStatus:
        name = request.name
        if name in self._plugins:
            raise RefusedError(f"Plugin {name!r} is in use already.", hint=f"`trainbus plugins restart {name}` starts it anew.")
        registry.find(name)
        if self._source is not None:
            self._config = msgspec.structs.replace(self._config, plugin=self._source.load().plugin)
            if self._source.file is not None and request.arguments.get("save", True):
                enable(self._source.file, name)
        member = self._add(name)
        await self._settled(member)
        return member.status()

    async def _answer_remove(self, request: wire.Supervise) -> wire.PluginStatus:
        member = self._find(request.name)
        if self._source is not None and self._source.file is not None and request.arguments.get("save", True):
            disable(self._source.file, request.name)
        return await self._remove(member)

    async def _answer_restart(self, request: wire.Supervise) -> wire.PluginStatus:
        member = self._find(request.name)
        await member.restart(self._config.bus.stop_timeout)
        await self._settled(member)
        return member.status()

    async def _answer_reload(self, request: wire.Supervise) -> dict[str, list[str]]:
        if self._source is None:
            raise ConfigError("This supervisor was started without a configuration to read again.", hint="Restart it with a file.")
        new = self._source.load()
        for name in new.plugins:
            registry.find(name)  # a misspelt name is refused before anything changes
        old, self._config = self._config, msgspec.structs.replace(new, bus=self._config.bus)
        removed = [name for name in self._plugins if name not in new.plugins]
        added = [name for name in new.plugins if name not in self._plugins]
        kept = [name for name in new.plugins if name in self._plugins]
        changed = [name for name in kept if new.plugin.get(name, {}) != self._plugins[name].options]
        failed = [name for name in kept if name not in changed and self._plugins[name].supervision.state == "failed"]
        for name in removed:
            await self._remove(self._plugins[name])
        for name in changed + failed:
            self._plugins[name].options = new.plugin.get(name, {})
        await asyncio.gather(*(self._plugins[name].restart(self._config.bus.stop_timeout) for name in changed + failed))
        started = [self._add(name) for name in added]
        await asyncio.gather(*(self._settled(member) for member in [*started, *(self._plugins[name] for name in changed + failed)]))
        return {
            "added": added,
            "removed": removed,
            "restarted": changed + failed,
            "unchanged": [name for name in kept if name not in changed and name not in failed],
            "needs_up": _differing(old.bus, new.bus),
            "failed": [name for name, member in self._plugins.items() if member.supervision.state == "failed"],
        }

    def _find(self, name: str) -> PluginMember:
        if name not in self._plugins:
            near = registry.nearest(name, self._plugins)
            have = ", ".join(self._plugins) or "none"
            raise PluginError(
                f"No plugin named {name!r} is in use.{near}", hint=f"In use: {have}.", found=name, allowed=list(self._plugins)
            )
        return self._plugins[name]

    def _add(self, name: str) -> PluginMember:
        member = PluginMember(
            name,
            self._output(name, next(self._colours)),
            self._environment,
            self._changed,
            root=self._root,
            settings=self._config.bus,
            options=self._config.plugin.get(name, {}),
            file=str(self._source.file) if self._source is not None and self._source.file is not None else "",
        )
        self._plugins[name] = member
        self._keep(member)
        return member

    async def _remove(self, member: PluginMember) -> wire.PluginStatus:
        await member.stop(self._config.bus.stop_timeout)
        self._keepers.pop(member.name).cancel()
        self._changed(member)
        del self._plugins[member.name]
        self._announcer.forget(member.name)
        member.output.close()
        self._write()
        return member.status()

    def _keep(self, member: Member) -> None:
        self._keepers[member.name] = asyncio.create_task(member.keep(), name=f"keep {member.name}")

    async def _settled(self, member: PluginMember) -> None:
        """Wait until the plugin runs or has failed; it may also just take long to load."""
        deadline = time.monotonic() + SETTLE
        while member.supervision.state == "starting" and not member.supervision.error and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    async def _until_stopped(self) -> None:
        stopping = asyncio.create_task(self._stopping.wait())
        given_up = self._broker.given_up
        keepers = set(self._keepers.values())
        watched: set[asyncio.Future[Any]] = {stopping, given_up, self._keepers["broker"]}
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for keeper in keepers:
            if keeper.done() and not keeper.cancelled():
                keeper.result()
        if given_up.done():
            raise _broker_error(*given_up.result())

    async def _end(self, beside: list[asyncio.Task[None]]) -> None:
        """Plugins first, while the broker can still take their last events and cursors; then the broker."""
        limit = self._config.bus.stop_timeout
        self._own.say("stopping")
        self._enough.set()
        async with self._changing:
            await asyncio.gather(*(member.stop(limit) for member in self._plugins.values()))
            self._announce()
            await asyncio.to_thread(self._publisher.close, 2.0)
            await self._control.settle()
            for task in beside:
                task.cancel()
            await self._broker.stop(limit)
            for keeper in self._keepers.values():
                keeper.cancel()
            await asyncio.gather(*beside, *self._keepers.values(), return_exceptions=True)
        (self._root / "up.json").unlink(missing_ok=True)
        self._own.say("stopped")

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            for member in (self._broker, *self._plugins.values()):
                if member.supervision.tick(now):
                    self._changed(member)
                    member.kill()
            self._announce()
            self._write()

    async def _drain(self) -> None:
        """Send what dead publishers of this machine left behind, at the start and soon after each death: the end of the story is told."""
        told: list[str] = []
        while True:
            await self._broker.ready.wait()
            try:
                reports = await asyncio.to_thread(drain_orphans, self._root, stop=self._enough)
            except TrainbusError as error:
                said = [f"orphaned spools stay for later: {error.problem}"]
            else:
                said = [_drained(report) for report in reports]
            for sentence in said:
                if sentence not in told:
                    self._own.say(sentence)
            told = said
            await asyncio.sleep(DRAIN_SECONDS)

    async def _tidy(self) -> None:
        """Keep the home directory within its bounds, at the start and each hour."""
        while True:
            try:
                removed = await asyncio.to_thread(tidy, self._root, self._config.bus)
            except OSError as error:
                self._own.say(f"the home directory could not be looked through: {error}")
            else:
                for one in removed:
                    self._own.say(f"deleted {one.path} ({one.bytes} bytes): {one.reason}")
            await asyncio.sleep(TIDY_SECONDS)

    def _changed(self, member: Member) -> None:
        """A member changed its state: told on the terminal, on the bus and in the account."""
        supervision = member.supervision
        if supervision.state in ("failed", "stuck") or (supervision.state == "starting" and supervision.error):
            again = (
                "" if supervision.next_start is None else f"; starts again in {max(0.0, supervision.next_start - time.monotonic()):.1f} s"
            )
            self._own.say(f"{member.name}: {supervision.error}{again}")
        elif supervision.state in ("running", "stopped"):
            self._own.say(f"{member.name} {'runs' if supervision.state == 'running' else 'has stopped'}")
        self._announce()
        self._write()

    def _announce(self) -> None:
        for member in self._plugins.values():
            for event in self._announcer.observe(member.status()):
                self._publisher.publish(event)

    def _write(self) -> None:
        """Keep the account for when the broker can't answer; written when something but the figures changed."""
        broker = self._broker.supervision
        running = Running(
            pid=os.getpid(),
            started=self._started,
            config=str(self._source.file) if self._source is not None and self._source.file is not None else "",
            state="stopping" if self._stopping.is_set() else "running" if self._broker.registered else "starting",
            broker=self._broker.pid,
            broker_state=broker.state,
            broker_restarts=broker.restarts,
            broker_error=broker.error,
            plugins=self.statuses(),
        )
        essence = msgspec.json.encode(
            [running.state, running.broker, broker.state, [(p.name, p.state, p.pid, p.url) for p in running.plugins]]
        )
        if essence != self._written:
            try:
                write_running(self._root, running)
            except OSError as error:
                # A full disk must end neither this process nor the care for the child whose change is told here. The next tick tries again.
                if not self._write_failed:
                    self._own.say(f"up.json can't be written: {error.strerror}; without a broker `trainbus status` shows an older state")
                self._write_failed = True
                return
            self._written, self._write_failed = essence, False

    def _broker_answered(self) -> None:
        if self._broker.ready.is_set():
            self._broker.supervision.running(time.monotonic())
            if not self._broker.registered:
                self._broker.registered = True
                self._write()

    def _output(self, name: str, colour: str) -> Output:
        bus = self._config.bus
        return Output(name, KeptLog(self._root / "logs" / f"{name}.log", bus.log_bytes, bus.log_files), self._console, colour)

    def _on_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled)

    def _signalled(self) -> None:
        """The first signal stops in order, the second at once."""
        if self._stopping.is_set():
            for member in (*self._plugins.values(), self._broker):
                member.kill()
        self._stopping.set()


def run_supervisor(config: Config, root: Path, *, source: Source | None = None, console: Console | None = None) -> None:
    """Run broker and plugins until told to stop. Blocks.

    Raises:
        RefusedError: Another supervisor runs here.
        PluginError: The configuration enables a plugin that is not installed.
        TrainbusError: The broker can't run.
    """
    for name in config.plugins:
        registry.find(name)
    lock = InstanceLock(root)
    try:
        asyncio.run(_run(config, root, source, console))
    finally:
        lock.release()


def _run(config: Config, root: Path, source: Source | None, console: Console | None) -> Coroutine[Any, Any, None]:
    async def run() -> None:
        logging.getLogger("asyncio").setLevel(logging.ERROR)
        await Supervisor(config, root, source=source, console=console).run()

    return run()


def _drained(report: DrainReport) -> str:
    left = "" if report.done else f"; the rest stays for later: {report.problem}"
    return f"spool {report.source} of run {report.run!r}: {report.acknowledged} of {report.published} events are safe{left}"


def _differing(old: BusConfig, new: BusConfig) -> list[str]:
    """The settings of ``[bus]`` that a reload can't apply: they count from the next `trainbus up`."""
    return [f"bus.{name}" for name in BusConfig.__struct_fields__ if getattr(old, name) != getattr(new, name)]


def _broker_error(code: int, lines: list[str]) -> TrainbusError:
    """The broker's own last words as an error of the same class."""
    # Its log lines begin with a date; the error is what it says last, problem and hint a line each.
    words = list(itertools.takewhile(lambda line: not line[:4].isdigit(), reversed([line for line in lines if line.strip()])))[::-1]
    problem = words[0] if words else f"The broker ended with exit code {code}."
    hint = " ".join(words[1:])
    kind = JournalError if code == JournalError.exit_code else ConfigError
    return kind(problem, hint=hint or f"See its log on {socket.gethostname()}: logs/broker.log.")
