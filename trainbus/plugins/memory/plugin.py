"""The hooks of the memory plugin: the timer looks and publishes, the events that come back are judged.

Measuring and judging are apart: a `System` event is the record of a look, and alerts follow from these events alone, so that a
replay of them gives the same alerts.
"""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from trainbus.bus import events
from trainbus.errors import PluginError
from trainbus.hookspecs import Context, hookimpl
from trainbus.plugins.memory.config import MemoryConfig
from trainbus.plugins.memory.incidents import Open, judge
from trainbus.plugins.memory.levels import used_percent
from trainbus.plugins.memory.pace import next_interval
from trainbus.plugins.memory.training import Training

TRAINING_KEY = "training/"
ALERTS_KEY = "alerts"
PATHS_KEY = "paths"
MAX_PATHS = 8
"""Checkpoint folders whose disks are watched, the newest."""


class MemoryStats(Struct, frozen=True, kw_only=True):
    """Looks since this process began, the seconds of the last one, alerts open."""

    looks: int
    last_look: float
    open: int


class MemoryPlugin:
    """Watches the memory of this machine and of the trainings on it; each machine needs its own."""

    def __init__(self) -> None:
        self.config = MemoryConfig()
        self._host = socket.gethostname()
        self._alerts: dict[str, Open] = {}
        self._interval = self._last_look = 0.0
        self._looks = 0
        self._last: tuple[float, float] | None = None

    @hookimpl
    def config_schema(self) -> type[msgspec.Struct]:
        """``[plugin.memory]``."""
        return MemoryConfig

    @hookimpl
    def start(self, context: Context) -> None:
        """Take the open alerts back."""
        try:
            from trainbus.plugins.memory.machine import Machine  # here, because psutil may be missing and schema and panels need none
        except ImportError as error:
            raise PluginError(
                f"The memory plugin needs {error.name}, which is not installed.", hint="pip install 'trainbus[memory]'", missing=error.name
            ) from error
        self.config = context.config
        self._machine = Machine(self._host, self.config)
        self._interval = self.config.interval
        self._alerts = msgspec.convert(context.state.get(ALERTS_KEY, {}), dict[str, Open])

    @hookimpl
    def stop(self, context: Context) -> None:
        """Let the GPU library go."""
        self._machine.close()

    @hookimpl
    def on_run_started(self, event: events.RunStarted, context: Context) -> None:
        """Watch a training that works on this machine."""
        if event.host == self._host and event.pid > 0:
            training = Training(event.run, event.pid, event.time, event.name)
            context.state[TRAINING_KEY + event.run] = list(msgspec.structs.astuple(training))

    @hookimpl
    def on_run_ended(self, event: events.RunEnded, context: Context) -> None:
        """Watch it no more; a lost one may come back, and its process tells whether it is there."""
        if event.outcome != "lost":
            context.state.pop(TRAINING_KEY + event.run, None)

    @hookimpl
    def on_checkpoint(self, event: events.Checkpoint, context: Context) -> None:
        """Watch the disk that a training on this machine writes to."""
        folder = str(Path(event.path).parent)
        known = context.state.get(PATHS_KEY, [])
        if event.host == self._host and event.path and event.state != "deleted" and folder not in known:
            context.state[PATHS_KEY] = [*known, folder][-MAX_PATHS:]

    @hookimpl
    def on_system(self, event: events.System, context: Context) -> None:
        """Judge a look at this machine."""
        if event.host != self._host:
            return
        for alert in judge(event, self.config, self._alerts):
            context.publish(alert)
        context.state[ALERTS_KEY] = msgspec.to_builtins(self._alerts)

    @hookimpl
    async def every(self, context: Context) -> float:
        """Look at the machine; returns the seconds until the next look."""
        trainings = [msgspec.convert(value, Training) for key, value in context.state.items() if key.startswith(TRAINING_KEY)]
        paths = [context.directory, *map(Path, context.state.get(PATHS_KEY, [])), *(Path(path).expanduser() for path in self.config.paths)]
        began = time.monotonic()
        look = await asyncio.to_thread(self._machine.look, trainings, paths)
        now = time.monotonic()
        for run in look.gone:
            context.state.pop(TRAINING_KEY + run, None)
        context.publish(look.event)
        self._looks += 1
        self._last_look = now - began
        self._interval = next_interval(
            self._interval, self._rate(used_percent(look.event.memory), now), calm=self.config.interval, fast=self.config.fast_interval
        )
        return self._interval

    def stats(self) -> MemoryStats:
        """Counts."""
        return MemoryStats(looks=self._looks, last_look=self._last_look, open=len(self._alerts))

    def _rate(self, percent: float | None, now: float) -> float | None:
        """Percentage points a second since the last look."""
        last, self._last = self._last, None if percent is None else (now, percent)
        if last is None or percent is None or now <= last[0]:
            return None
        return (percent - last[1]) / (now - last[0])
