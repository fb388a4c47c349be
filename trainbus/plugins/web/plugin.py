"""The dashboard as a plugin: every event goes into the store and to the open pages."""

from __future__ import annotations

import asyncio

import msgspec

from trainbus.bus import events
from trainbus.errors import ConfigError
from trainbus.hookspecs import Context, hookimpl
from trainbus.plugins.web.config import WebConfig, check, is_loopback
from trainbus.plugins.web.discovery import installed_panels
from trainbus.plugins.web.feed import Feed
from trainbus.plugins.web.intake import Intake
from trainbus.plugins.web.server import Server
from trainbus.plugins.web.store import Store
from trainbus.plugins.web.tokens import own_token, token_file

PANELS_SECONDS = 10.0
"""Importing the installed plugins may take so long; the history is read without their panels then."""


class WebPlugin:
    """Serves one live page. Nothing of it is durable: after a restart all is read from the journal again."""

    def __init__(self) -> None:
        self.intake = Intake(Store(), Feed())
        self.url = ""
        self._server: Server | None = None
        self._loading: asyncio.Task[None] | None = None

    @hookimpl
    def config_schema(self) -> type[msgspec.Struct]:
        """Settings of ``[plugin.web]``."""
        return WebConfig

    @hookimpl
    async def start(self, context: Context) -> None:
        """Open the port, say where, and read the history in the background."""
        config = context.config
        if not isinstance(config, WebConfig):
            raise ConfigError("plugin.web has no settings.", hint="The host gives a plugin an instance of its config schema.")
        check(config)
        open_to_others = not is_loopback(config.bind)
        own = own_token(context.directory) if open_to_others and not config.token and not config.operator_token else ""
        config = msgspec.structs.replace(config, operator_token=config.operator_token or own)
        store = Store(points=config.points_per_series, all_points=config.points, runs=config.runs, samples=config.samples)
        self.intake = Intake(store, Feed())
        self._server = Server(config, self.intake, context)
        self.url = await self._server.start()
        context.announce(url=self.url)
        context.logger.info("dashboard on %s", self.url)
        if open_to_others:
            code = self._server.links.make(config.operator_token or config.token)
            context.logger.info("open it by this link, which works once, within the hour: %s?token=%s", self.url, code)
        if own:
            context.logger.info("its token, for further browsers, is in %s", token_file(context.directory))
        self._loading = asyncio.create_task(self._load(context))

    async def _load(self, context: Context) -> None:
        """First the panels, then the events that they draw. A plugin whose import hangs costs its panel, not the history."""
        asked = asyncio.create_task(asyncio.to_thread(installed_panels, context.logger, without="web"))
        done, _ = await asyncio.wait({asked}, timeout=PANELS_SECONDS)
        for task in done:
            for name, panels in task.result().items():
                self.intake.store.panels.declare(name, panels)
        await self.intake.load(context)

    @hookimpl
    async def stop(self, context: Context) -> None:
        """Close the port and all streams."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        if self._server is not None:
            await self._server.stop()

    @hookimpl
    def on_event(self, event: events.AnyEvent, context: Context) -> None:
        """Every event, also of kinds that this version doesn't know."""
        self.intake.live(event)

    @hookimpl
    def on_heartbeat(self, event: events.Heartbeat, context: Context) -> None:
        """Asks the host for heartbeats, which come through `on_event` only to those who name them; applying one twice changes nothing."""
        self.intake.live(event)
