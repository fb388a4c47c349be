"""The hooks of the memory plugin: the timer looks and publishes, the events that come back are judged and acted on.

Measuring and judging are apart: a `System` event is the record of a look, and alerts follow from these events alone, so that a
replay of them gives the same alerts.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from trainbus.bus import events
from trainbus.errors import PluginError, TrainbusError
from trainbus.hookspecs import Context, Panel, hookimpl
from trainbus.plugins.memory.actions import Ask
from trainbus.plugins.memory.config import MemoryConfig
from trainbus.plugins.memory.deaths import LAST_SECONDS, last_minute
from trainbus.plugins.memory.levels import limits
from trainbus.plugins.memory.pace import Pace
from trainbus.plugins.memory.watch import Died, State, Watch

STATE_KEY = "watch"
PATHS_KEY = "paths"
RECENT_KEY = "recent"
MAX_PATHS = 8
"""Checkpoint folders whose disks are watched, the newest."""
FRESH_SECONDS = 30.0
"""A look older than this is history: nothing is asked of a training for it."""
RECENT_SECONDS = 5.0
"""Between the offsets that are remembered to find the last minute in the journal."""
HOME_LEVELS = 2
"""The plugin's directory lies this deep in the home directory, which holds spools and journal."""


class MemoryStats(Struct, frozen=True, kw_only=True):
    """Looks since this process began, the seconds of the last one and until the next, alerts open, requests made."""

    looks: int
    last_look: float
    interval: float
    open: int
    asked: int


class MemoryPlugin:
    """Watches the memory of this machine and of the trainings on it; each machine needs its own."""

    def __init__(self) -> None:
        self.config = MemoryConfig()
        self._host = socket.gethostname()
        self._watch = Watch(self._host, self.config)
        self._interval = self._last_look = 0.0
        self._looks = self._asked = 0
        self._killing: set[asyncio.Task[None]] = set()
        self._spared = ""

    @hookimpl
    def config_schema(self) -> type[msgspec.Struct]:
        """``[plugin.memory]``."""
        return MemoryConfig

    @hookimpl
    def web_panels(self) -> list[Panel]:
        """Host memory and pressure over time, and the risk."""
        return [
            Panel(id="memory", title="Memory available", kind="chart", events="system", fields=("memory.available",), x="time"),
            Panel(
                id="pressure", title="Memory pressure", kind="chart", events="system", fields=("pressure.some", "pressure.full"), x="time"
            ),
            Panel(id="risk", title="Risk of running out of memory", kind="text", events="system", fields=("risk", "reason"), x="time"),
        ]

    @hookimpl
    def start(self, context: Context) -> None:
        """Take the open alerts back."""
        try:
            from trainbus.plugins.memory.machine import Machine  # here, because schema and panels need no readers
            from trainbus.plugins.memory.protect import spare

            self._machine = Machine(self._host, context.config)
        except ImportError as error:
            raise PluginError(
                f"The memory plugin needs {error.name}, which is not installed.", hint="pip install 'trainbus[memory]'", missing=error.name
            ) from error
        self.config = context.config
        self._pace = Pace(self.config.interval, self.config.fast_interval)
        self._watch = Watch(self._host, self.config, _kept(context))
        if self.config.protect:
            self._spared = spare(Path("/proc"))
            if self._spared:
                context.logger.info("the kernel is not asked to spare this process: %s", self._spared)

    @hookimpl
    def stop(self, context: Context) -> None:
        """Let the GPU library go."""
        self._machine.close()

    @hookimpl
    def on_run_started(self, event: events.RunStarted, context: Context) -> None:
        """Watch a training that works on this machine."""
        self._watch.on_run_started(event)
        self._keep(context)

    @hookimpl
    def on_run_ended(self, event: events.RunEnded, context: Context) -> None:
        """Watch it no more; a lost one may come back, and its process tells whether it is there."""
        for alert in self._watch.on_run_ended(event):
            context.publish(alert)
        self._keep(context)

    @hookimpl
    def on_alert(self, event: events.Alert, context: Context) -> None:
        """One incident, one alert: a crash that `trainbus exec` tells of is not told once more."""
        for alert in self._watch.on_alert(event):
            context.publish(alert)
            self._keep(context)

    @hookimpl
    def on_step(self, event: events.Step) -> None:
        """Count a training's steps."""
        self._watch.on_step(event)

    @hookimpl
    def on_phase(self, event: events.Phase, context: Context) -> None:
        """Know whether a training trains or evaluates."""
        self._watch.on_phase(event)
        if event.state != "progress":
            self._keep(context)

    @hookimpl
    def on_checkpoint(self, event: events.Checkpoint, context: Context) -> None:
        """Know how long a save takes, and watch the disk that it goes to."""
        self._watch.on_checkpoint(event)
        folder = str(Path(event.path).parent)
        known = context.state.get(PATHS_KEY, [])
        if event.host == self._host and event.path and event.state != "deleted" and folder not in known:
            context.state[PATHS_KEY] = [*known, folder][-MAX_PATHS:]
        self._keep(context)

    @hookimpl
    async def on_system(self, event: events.System, context: Context) -> None:
        """Judge a look at this machine; ask trainings for what the policy says when it is a fresh one."""
        if event.host != self._host:
            return
        recent = context.state.get(RECENT_KEY, [])
        if not recent or event.time - recent[-1][0] >= RECENT_SECONDS * 1e9:
            recent = [one for one in recent if event.time - one[0] <= (LAST_SECONDS + 2 * RECENT_SECONDS) * 1e9]
            context.state[RECENT_KEY] = [*recent, [event.time, event.offset]]
        alerts, died = self._watch.on_system(event)
        for alert in alerts:
            context.publish(alert)
        if abs(time.time_ns() - event.time) <= FRESH_SECONDS * 1e9:
            for ask, alert in self._watch.act(event):
                context.publish(alert)
                self._carry_out(ask, context)
        for alert in self._watch.cleared(event):
            context.publish(alert)
        for one in died:
            await self._bury(one, event, context)
        self._keep(context)

    @hookimpl
    async def every(self, context: Context) -> float:
        """Look at the machine; returns the seconds until the next look."""
        home = context.directory.parents[HOME_LEVELS - 1]
        paths = [
            home,
            context.directory,
            *map(Path, context.state.get(PATHS_KEY, [])),
            *(Path(path).expanduser() for path in self.config.paths),
        ]
        began = time.monotonic()
        event = await asyncio.to_thread(self._machine.look, list(self._watch.state.trainings.values()), paths)
        now = time.monotonic()
        if self._spared:
            event.unknown["oom_score_adj"] = self._spared
        context.publish(event)
        self._looks += 1
        self._last_look = now - began
        self._interval = self._pace.next(limits(event), now, self._watch.step_seconds())
        return self._interval

    def stats(self) -> MemoryStats:
        """Counts."""
        return MemoryStats(
            looks=self._looks,
            last_look=self._last_look,
            interval=self._interval,
            open=len(self._watch.state.alerts),
            asked=self._asked,
        )

    def _keep(self, context: Context) -> None:
        context.state[STATE_KEY] = msgspec.to_builtins(self._watch.state, str_keys=True)

    def _carry_out(self, ask: Ask, context: Context) -> None:
        """Send a request to its training, or say in the log what would have been sent."""
        if self.config.dry_run:
            context.logger.info("dry run: would ask %s for %s: %s", ask.run, ask.verb, ask.reason)
            return
        self._asked += 1
        if ask.verb != "kill":
            context.command(ask.run, ask.verb, reason=ask.reason)
            return
        task = asyncio.get_running_loop().create_task(self._kill(ask, context))
        self._killing.add(task)
        task.add_done_callback(self._killing.discard)

    async def _kill(self, ask: Ask, context: Context) -> None:
        """The last resort: SIGTERM, and SIGKILL when the grace is over."""
        from trainbus.plugins.memory.protect import Victim

        victim = Victim(self._watch.state.trainings[ask.run])
        context.logger.warning("last resort: SIGTERM to %s: %s", ask.run, ask.reason)
        victim.end(signal.SIGTERM)
        await asyncio.sleep(self.config.last_resort_grace)
        if victim.end(signal.SIGKILL):
            context.logger.warning("last resort: SIGKILL to %s after %g s", ask.run, self.config.last_resort_grace)

    async def _bury(self, died: Died, event: events.System, context: Context) -> None:
        """Publish a death with the last minute of memory before it."""
        recent = context.state.get(RECENT_KEY, [])
        after = recent[0][1] - 1 if recent else -1
        try:
            history = [
                one async for one in context.aquery(kinds=("system",), after=after, upto=event.offset) if isinstance(one, events.System)
            ]
        except TrainbusError as error:
            died.alert.evidence["last_minute_missing"] = str(error)
        else:
            died.alert.evidence["last_minute"] = last_minute(history, died.run, self._host, died.death.time)
        context.publish(died.alert)


def _kept(context: Context) -> State:
    """What was kept; of a form that this version doesn't know, nothing: alerts are then raised anew."""
    try:
        return msgspec.convert(context.state.get(STATE_KEY, {}), State, str_keys=True)
    except msgspec.ValidationError as error:
        context.logger.warning("what was kept of before can't be read and is let go: %s", error)
        return State()
