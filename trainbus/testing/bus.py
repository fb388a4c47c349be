"""A whole bus in memory: several plugins, runs and a clock, in one process and without a socket.

    bus = MemoryBus()
    bus.add(Patience, name="patience", config={"limit": 3.0})
    trainer = FakeTrainer(bus.run("r"), steps=50, fault="nan", at=20)
    trainer.train()
    assert [alert.step for alert in bus.events("alert")] == [20]

What one plugin publishes, every plugin that has a hook for it is given, in the order of offsets, as on the real bus. Time is the
clock's: `MemoryBus.advance` lets it pass and calls the timers that are due. What a hook raises reaches the test.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from trainbus.bus import events
from trainbus.testing.clock import VirtualClock
from trainbus.testing.context import Done, MemoryContext, PluginHarness

TIMER_CALLS = 10_000
"""Calls of one timer in one `MemoryBus.advance`: a timer that asks for 0 seconds for ever would never let time pass."""


class MemoryBusStats(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a bus: events in its journal, plugins on it, runs that it has heard of."""

    events: int
    plugins: int
    runs: int


class MemoryBus:
    """Hands every published event to every plugin.

    Args:
        clock: What stamps events and drives timers.
        directory: Plugins get their own directories below it; temporary ones when None.
    """

    def __init__(self, *, clock: VirtualClock | None = None, directory: Path | None = None) -> None:
        self.clock = clock or VirtualClock()
        self.journal: list[events.AnyEvent] = []
        self.plugins: dict[str, PluginHarness] = {}
        self._runs: dict[str, MemoryRun] = {}
        self._directory = directory
        self._cursors: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._busy = False

    def __repr__(self) -> str:
        return f"<MemoryBus of {', '.join(self.plugins) or 'no plugins'}, {len(self.journal)} events>"

    def __enter__(self) -> MemoryBus:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, plugin: Any, *, name: str = "plugin", config: dict[str, Any] | None = None) -> PluginHarness:
        """Start a plugin (a class, an instance or a module). It is given the whole history first, as a new consumer is."""
        context = _BusContext(self, name, None if self._directory is None else self._directory / name)
        harness = PluginHarness(plugin, config=config, context=context, name=name)
        self.plugins[name] = harness
        self._cursors[name] = -1
        self._due[name] = self.clock.now()
        with self._hooks_at_work():
            harness.start()
        self.advance(0.0)
        return harness

    def remove(self, name: str) -> None:
        """Stop a plugin in order."""
        self._due.pop(name, None)
        del self._cursors[name]
        with self._hooks_at_work():
            self.plugins.pop(name).stop()

    def run(self, run: str, *, name: str = "", config: dict[str, Any] | None = None) -> MemoryRun:
        """Begin a run, as `trainbus.init` does."""
        self._runs[run] = MemoryRun(self, run, name or run, config or {})
        return self._runs[run]

    def publish(self, event: events.Event, *, source: str = "test") -> int:
        """Give an event its offset, and it to every plugin; the offset. What a hook publishes comes after what is being handled."""
        event.time = event.time or self.clock.wall()
        event.source = event.source or source
        event.offset = len(self.journal)
        self.journal.append(event)
        if not self._busy:
            with self._hooks_at_work():
                pass
        return event.offset

    def command(self, run: str, verb: str, *, requested_by: str = "test", reason: str = "", **arguments: Any) -> str:
        """Ask a run for something; the command's id."""
        name = f"command-{len(self.journal)}"
        command = events.Command(run=run, id=name, verb=verb, arguments=arguments, requested_by=requested_by, reason=reason)
        if run in self._runs:
            self._runs[run].asked.append(command)
        self.publish(command)
        return name

    def events(self, *kinds: str, run: str = "") -> list[Any]:
        """What the journal holds of these kinds (all when none is named), of one run or of all."""
        return [event for event in self.journal if (not kinds or event.kind in kinds) and run in ("", event.run)]

    def advance(self, seconds: float) -> None:
        """Let time pass: timers (`every`) are called when they are due, in order.

        Raises:
            RuntimeError: A timer asks to be called again at once, again and again.
        """
        end = self.clock.now() + seconds
        calls = 0
        while (due := min(self._due.items(), key=lambda item: item[1], default=None)) is not None and due[1] <= end:
            name, moment = due
            self.clock.advance(max(0.0, moment - self.clock.now()))
            with self._hooks_at_work():
                pause = self.plugins[name].every()
            if pause is None:
                del self._due[name]
            else:
                self._due[name] = self.clock.now() + pause
            calls += 1
            if calls > TIMER_CALLS:
                raise RuntimeError(f"The timer of {name} was called {TIMER_CALLS} times within {seconds} s: it asks for {pause} s.")
        self.clock.advance(end - self.clock.now())

    def close(self) -> None:
        """Stop all plugins."""
        for name in list(self.plugins):
            self.remove(name)

    def stats(self) -> MemoryBusStats:
        """Figures of now."""
        return MemoryBusStats(events=len(self.journal), plugins=len(self.plugins), runs=len(self._runs))

    @contextmanager
    def _hooks_at_work(self) -> Iterator[None]:
        """Whatever hooks publish inside the block is handed out behind it: hooks are called one at a time, never one within another."""
        self._busy = True
        try:
            yield
            while self._cursors and (offset := min(self._cursors.values()) + 1) < len(self.journal):
                for name in [name for name, cursor in self._cursors.items() if cursor < offset]:
                    self._cursors[name] = offset
                    self.plugins[name].handle(self.journal[offset])
        finally:
            self._busy = False


class MemoryRun:
    """A run on a `MemoryBus`: the part of `trainbus.Run` that a training loop needs. ``asked`` holds commands not yet fetched."""

    def __init__(self, bus: MemoryBus, run: str, name: str, config: dict[str, Any]) -> None:
        self.id = run
        self.asked: deque[events.Command] = deque()
        self._bus = bus
        self._closed = False
        self._seq = 0
        self.publish(events.RunStarted(name=name, config=config))

    def publish(self, event: events.Event) -> None:
        """Publish an event of this run."""
        event.run = event.run or self.id
        event.seq = self._seq
        self._seq += 1
        self._bus.publish(event, source="trainer")

    def commands(self) -> list[events.Command]:
        """What the run was asked to do since the last call."""
        asked = list(self.asked)
        self.asked.clear()
        return asked

    def close(self, outcome: events.RunOutcome = "completed", *, reason: str = "", timeout: float | None = None) -> bool:
        """End the run. Only the first call counts; nothing ever has to be waited for."""
        if not self._closed:
            self._closed = True
            self.publish(events.RunEnded(outcome=outcome, reason=reason))
        return True


class _BusContext(MemoryContext):
    """A context whose events and commands go to the bus, and whose history is the bus's."""

    def __init__(self, bus: MemoryBus, name: str, directory: Path | None) -> None:
        super().__init__(name=name, directory=directory)
        self._bus = bus
        self.history = bus.journal

    def publish(self, event: events.Event) -> None:
        """Keep it in `published`, and give it to the bus."""
        super().publish(event)
        self._bus.publish(event, source=f"plugin-{self.name}")

    def command(self, run: str, verb: str, *, reason: str = "", **arguments: Any) -> Awaitable[str]:
        """Keep it in `commands`, and give it to the run."""
        super().command(run, verb, reason=reason, **arguments)
        return Done(self._bus.command(run, verb, requested_by=f"plugin:{self.name}", reason=reason, **arguments))
