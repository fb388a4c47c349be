"""The hooks that all sinks but Prometheus share; each has a writer of its own."""

from __future__ import annotations

import importlib
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import msgspec

from trainbus.bus import events
from trainbus.errors import ConfigError, PluginError
from trainbus.hookspecs import Context, hookimpl
from trainbus.plugins.sinks.config import SinkConfig
from trainbus.plugins.sinks.outflow import Outflow, SinkStats, Writer


class SinkPlugin:
    """A sink. Subclasses name their schema and make their writer.

    Attributes:
        schema: ``[plugin.NAME]``.
        kinds: The kinds of events that are handed on; empty for all.
    """

    schema: ClassVar[type[SinkConfig]] = SinkConfig
    kinds: ClassVar[frozenset[str]] = frozenset()

    def __init__(self) -> None:
        self._outflow: Outflow | None = None

    def open(self, context: Context) -> Writer:
        """The peer.

        Raises:
            ConfigError: It can never work like this.
            PluginError: A library is missing.
        """
        raise NotImplementedError

    @hookimpl
    def config_schema(self) -> type[msgspec.Struct]:
        """``[plugin.NAME]``."""
        return self.schema

    @hookimpl
    async def start(self, context: Context) -> None:
        """Open the peer and learn how far it is."""
        config: SinkConfig = context.config

        def wanted(event: events.AnyEvent) -> bool:
            return (not self.kinds or event.kind in self.kinds) and wants(config.runs, event.run)

        self._outflow = Outflow(self.open(context), context, wanted, config.batch)

    @hookimpl
    async def on_event(self, event: events.AnyEvent, context: Context) -> None:
        """Take it in. Heartbeats are not journaled and not handed on."""
        if self._outflow is not None and event.offset >= 0:
            await self._outflow.take(event)

    @hookimpl
    async def every(self, context: Context) -> float | None:
        """Write what has come."""
        return await self._outflow.tick(context.config.interval) if self._outflow is not None else None

    @hookimpl
    async def stop(self, context: Context) -> None:
        """Write what is left."""
        if self._outflow is not None:
            await self._outflow.end()

    def stats(self) -> SinkStats | None:
        """How far it is; None before the start."""
        return self._outflow.stats() if self._outflow is not None else None


def wants(patterns: tuple[str, ...], run: str) -> bool:
    """Whether a run is among those that are handed on. Events without a run always are."""
    return not run or any(fnmatchcase(run, pattern) for pattern in patterns)


def library(name: str, extra: str) -> ModuleType | Any:
    """A module that only this plugin needs.

    Raises:
        PluginError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        hint = f"pip install 'trainbus[{extra}]'"
        raise PluginError(f"The plugin {extra} needs the module {error.name}.", hint=hint, plugin=extra) from error


def folder(chosen: str, context: Context) -> Path:
    """The folder that files go to, made if need be.

    Raises:
        ConfigError: It can't be made.
    """
    path = Path(chosen).expanduser() if chosen else context.directory / "files"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        key = f"plugin.{context.name}.directory"
        raise ConfigError(
            f"{key}: {path} can't be made: {error.strerror}.", hint="Name another folder.", key=key, found=str(path)
        ) from error
    return path
