"""A plugin without a bus: feed it events, look at what it published.

harness = PluginHarness(MyPlugin(), config={"threshold": 3})
harness.start()
harness.feed(Step(run="r", step=1, metrics={"loss": math.nan}))
assert [alert.rule for alert in harness.published] == ["nan"]
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import tempfile
from collections.abc import AsyncIterator, Awaitable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from trainbus import hookspecs
from trainbus.bus import events
from trainbus.bus.hosting.loading import Loaded
from trainbus.bus.hosting.registry import Installed


class SentCommand(msgspec.Struct, frozen=True):
    """A command that the plugin sent."""

    run: str
    verb: str
    arguments: dict[str, Any]
    reason: str
    plugin: str = ""


class Supervised(msgspec.Struct, frozen=True):
    """What the plugin asked the supervisor for."""

    verb: str
    name: str
    arguments: dict[str, Any]


class MemoryContext:
    """`trainbus.hookspecs.Context` in memory.

    Args:
        history: What `query` answers from; fed events are added to it.
        directory: The plugin's own directory; a temporary one when None.
    """

    def __init__(self, *, name: str = "plugin", config: Any = None, directory: Path | None = None) -> None:
        self.name = name
        self.config = {} if config is None else config
        self.directory = directory or Path(tempfile.mkdtemp(prefix=f"trainbus-{name}-"))
        self.logger = logging.getLogger(f"trainbus.plugin.{name}")
        self.state: dict[str, Any] = {}
        self.journal = "memory"
        self.history: list[events.AnyEvent] = []
        self.published: list[events.Event] = []
        self.commands: list[SentCommand] = []
        self.supervised: list[Supervised] = []
        self.supervisor: dict[str, Any] = {}
        self.leases: dict[str, list[str]] = {}
        self.url = ""
        self.handling: events.AnyEvent | None = None

    def publish(self, event: events.Event) -> None:
        """Keep the event in `published`, stamped with the run and time of the event being handled."""
        if self.handling is not None:
            event.run = event.run or self.handling.run
            event.time = event.time or self.handling.time
        self.published.append(event)

    async def flush(self, timeout: float = 10.0) -> bool:
        """Everything is where it belongs at once."""
        return True

    def command(self, run: str, verb: str, *, reason: str = "", plugin: str = "", **arguments: Any) -> Awaitable[str]:
        """Keep the command in `commands`."""
        self.commands.append(SentCommand(run, verb, arguments, reason, plugin))
        return Done(f"command-{len(self.commands)}")

    async def supervise(self, verb: str, name: str = "", **arguments: Any) -> Any:
        """Keep the question in `supervised`; the answer to a verb is what stands in ``supervisor``, raised when it is an error."""
        self.supervised.append(Supervised(verb, name, arguments))
        answer = self.supervisor.get(verb)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def query(
        self, *, kinds: Sequence[str] = (), runs: Sequence[str] = (), after: int = -1, upto: int | None = None
    ) -> Iterator[events.AnyEvent]:
        """Events of `history` that match."""
        for event in list(self.history):
            wanted = (not kinds or event.kind in kinds) and (not runs or event.run in runs)
            if wanted and after < event.offset and (upto is None or event.offset <= upto):
                yield event

    async def aquery(
        self, *, kinds: Sequence[str] = (), runs: Sequence[str] = (), after: int = -1, upto: int | None = None
    ) -> AsyncIterator[events.AnyEvent]:
        """As `query`."""
        for event in self.query(kinds=kinds, runs=runs, after=after, upto=upto):
            yield event

    @contextmanager
    def lease(
        self, resource: str, *, mode: Literal["shared", "exclusive"] = "shared", reason: str = "", ttl: float = 60.0
    ) -> Iterator[None]:
        """Hold a lease; another holder can be simulated by putting a mode into ``leases[resource]``."""
        held = self.leases.setdefault(resource, [])
        if "exclusive" in held or (mode == "exclusive" and held):
            raise hookspecs.LeaseRefusedError(f"{resource} is held: {', '.join(held)}")
        held.append(mode)
        try:
            yield
        finally:
            held.remove(mode)

    def held(self) -> list[hookspecs.HeldLease]:
        """What stands in `leases`."""
        return [
            hookspecs.HeldLease(resource=resource, holder="test", mode=mode)
            for resource, modes in list(self.leases.items())
            for mode in modes
        ]

    def announce(self, *, url: str) -> None:
        """Keep the address in `url`."""
        self.url = url


class Done:
    """An answer that is already there; it may be awaited or left alone."""

    def __init__(self, value: str) -> None:
        self.value = value

    def __await__(self) -> Generator[Any, None, str]:
        return self.value
        yield  # makes this a generator, as the protocol asks


class PluginHarness:
    """Runs a plugin's hooks as the host does, one event at a time, in the caller's process. It refuses what the host refuses.

    Args:
        plugin: A class, an instance or a module with hooks.
        config: As in ``[plugin.NAME]``; validated with the plugin's schema.
        context: Kept over several harnesses, it simulates a restart with the same state.

    Raises:
        PluginError: A misspelt hook or argument, no hooks, another HOOK_API.
        ConfigError: ``config`` doesn't fit the schema.
    """

    def __init__(
        self,
        plugin: Any,
        *,
        config: dict[str, Any] | None = None,
        context: MemoryContext | None = None,
        directory: Path | None = None,
        name: str = "plugin",
    ) -> None:
        instance = plugin() if inspect.isclass(plugin) else plugin
        loaded = Loaded(Installed(name=name, target=f"{type(instance).__module__}:{type(instance).__qualname__}"), instance, config or {})
        self.manager = loaded.manager
        self.context = context or MemoryContext(name=name, directory=directory)
        self.context.config = loaded.config
        self._runner = asyncio.Runner()

    @property
    def published(self) -> list[events.Event]:
        """What the plugin has published so far."""
        return self.context.published

    def start(self) -> None:
        """Call the start hook."""
        self._call("start")

    def stop(self) -> None:
        """Call the stop hook and end the event loop."""
        self._call("stop")
        self._runner.close()

    def kill(self) -> None:
        """End the event loop without the stop hook, as a crash does."""
        self._runner.close()

    def every(self) -> float | None:
        """Call the timer once; returns the seconds until it wants to be called again."""
        answers = self._call("every")
        return answers[0] if answers else None

    def feed(self, *feed: events.AnyEvent) -> list[events.Event]:
        """Hand events to the hooks in order; returns what the plugin published meanwhile."""
        before = len(self.published)
        for event in feed:
            if event.offset < 0 and event.kind != "heartbeat":
                event.offset = self.context.history[-1].offset + 1 if self.context.history else 0
            self.context.history.append(event)
            self.handle(event)
        return self.published[before:]

    def handle(self, event: events.AnyEvent) -> None:
        """Hand one event, which has its offset, to the hooks. What a hook raises reaches the caller."""
        self.context.handling = event
        try:
            self._call("on_event", event=event)
            if event.kind in events.BY_KIND:
                self._call(f"on_{event.kind}", event=event)
        finally:
            self.context.handling = None

    def _call(self, hook: str, **arguments: Any) -> list[Any]:
        answers = getattr(self.manager.hook, hook)(context=self.context, **arguments)
        # The loop is only turned for coroutines: most hooks are plain, and long histories are fed through here.
        return self._runner.run(self._gather(answers)) if any(map(inspect.isawaitable, answers)) else answers

    async def _gather(self, answers: list[Any]) -> list[Any]:
        return [await answer if inspect.isawaitable(answer) else answer for answer in answers]
