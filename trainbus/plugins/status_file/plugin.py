"""The hooks of the plugin status_file: events in, one file out, replaced as a whole."""

from __future__ import annotations

import asyncio
import logging
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec
from msgspec import Struct

from trainbus.bus import events
from trainbus.bus.home import write_atomically
from trainbus.hookspecs import Context, hookimpl
from trainbus.plugins.status_file.config import StatusFileConfig
from trainbus.plugins.status_file.figures import Memory

log = logging.getLogger(__name__)
STATE_KEY = "memory"
FILE = "training_status.json"


class StatusFileStats(Struct, frozen=True, kw_only=True):
    """Writings so far, and those that failed."""

    written: int
    failed: int


class StatusFilePlugin:
    """``plugins = ["status_file"]``. The newest run that fits is shown; what it was computed from is stored with the cursor."""

    def __init__(self) -> None:
        self.memory = Memory()
        self._written = self._failed = 0
        self._dirty = True

    @hookimpl
    def config_schema(self) -> type[msgspec.Struct]:
        """``[plugin.status_file]``."""
        return StatusFileConfig

    @hookimpl
    def start(self, context: Context) -> None:
        """Take back what was known."""
        if STATE_KEY in context.state:
            self.memory = msgspec.convert(context.state[STATE_KEY], Memory)
        context.state[STATE_KEY] = self.memory  # compared at every commit, so changing it in place is enough

    @hookimpl
    def on_event(self, event: events.AnyEvent, context: Context) -> None:
        """Take it in. A new run takes the place of the one before."""
        if not event.run or not fnmatchcase(event.run, context.config.run):
            return
        if isinstance(event, events.RunStarted) and event.run != self.memory.status.run:
            self.memory = context.state[STATE_KEY] = Memory()
        if event.run == self.memory.status.run or isinstance(event, events.RunStarted):
            self.memory.apply(event)
            self._dirty = True

    @hookimpl
    async def every(self, context: Context) -> float:
        """Write the file when something has changed."""
        if self._dirty:
            self._dirty = False
            await asyncio.to_thread(self._write, self._path(context), msgspec.json.encode(self.memory.status))
        return float(context.config.interval)

    @hookimpl
    def stop(self, context: Context) -> None:
        """What is left."""
        if self._dirty:
            self._write(self._path(context), msgspec.json.encode(self.memory.status))

    def stats(self) -> StatusFileStats:
        """Counts so far."""
        return StatusFileStats(written=self._written, failed=self._failed)

    def _path(self, context: Context) -> Path:
        return Path(context.config.path).expanduser() if context.config.path else context.directory / FILE

    def _write(self, path: Path, content: bytes) -> None:
        try:
            write_atomically(path, content, mode=0o644)
            self._written += 1
        except OSError as error:  # a full disk: the next one may be written
            self._failed += 1
            self._dirty = True
            if self._failed == 1:
                log.warning("%s can't be written: %s", path, error)
