"""The hooks of the notify plugin: alerts and ends of runs in, messages out."""

from __future__ import annotations

import asyncio
from datetime import datetime

import msgspec
from msgspec import Struct

from trainbus.bus import events
from trainbus.errors import ConfigError
from trainbus.hookspecs import Context, hookimpl
from trainbus.plugins.notify.config import NotifyConfig
from trainbus.plugins.notify.routing import Delivery, Outgoing, due, message_of, route
from trainbus.plugins.notify.senders import DeliveryError, send, url_of

STATE_KEY = "outgoing"
WAITING_KEY = "waiting"
TIMER = 1.0
"""Seconds between two looks at what waits."""
AGAIN = 30.0
"""The same after a failure."""
MAX_TRIES = 5
MAX_WAITING = 500
"""Deliveries that wait to be tried again; the oldest are dropped beyond."""


class Waiting(Struct):
    """A delivery that is under way or has failed so often."""

    delivery: Delivery
    tries: int = 0


class NotifyStats(Struct, frozen=True, kw_only=True):
    """Counts since this process began."""

    delivered: int
    failed: int
    dropped: int
    waiting: int


class NotifyPlugin:
    """Tells people, by the channels that they have chosen.

    What is to be sent is put into the state together with the cursor and sent from the timer, so that neither a kill nor a service that is
    down loses a message, and a slow one holds up no event. A kill between sending and storing can repeat one.
    """

    def __init__(self) -> None:
        self.config = NotifyConfig()
        self.outgoing = Outgoing()
        self.waiting: list[Waiting] = []
        self._delivered = self._failed = self._dropped = 0

    @hookimpl
    def config_schema(self) -> type[msgspec.Struct]:
        """``[plugin.notify]``."""
        return NotifyConfig

    @hookimpl
    def start(self, context: Context) -> None:
        """Take back what was told and what waits. Channels that can never work are refused here.

        Raises:
            ConfigError: A channel has no URL, or others can read it, or a route names a channel that there is not.
        """
        self.config = context.config
        names = [channel.name for channel in self.config.channels]
        for one in self.config.routes:
            for name in one.channels:
                if name not in names:
                    known = f"There are: {', '.join(names) or 'none'}."
                    raise ConfigError(f"plugin.notify.routes names the channel {name!r}, which there is not.", hint=known, found=name)
        for channel in self.config.channels:
            if channel.type != "desktop":
                url_of(channel)
        try:
            self.outgoing = msgspec.convert(context.state.get(STATE_KEY, {}), Outgoing)
            self.waiting = msgspec.convert(context.state.get(WAITING_KEY, []), list[Waiting])
        except msgspec.ValidationError as error:
            context.logger.warning("What was told before can't be read and starts anew: %s", error)

    @hookimpl
    def on_alert(self, event: events.Alert, context: Context) -> None:
        """An alert is raised, has become more severe, or is over."""
        self._take(event, context)

    @hookimpl
    def on_run_ended(self, event: events.RunEnded, context: Context) -> None:
        """A run has ended or is lost."""
        self._take(event, context)

    @hookimpl
    async def every(self, context: Context) -> float:
        """Summaries that are due, and everything that waits, is sent."""
        for delivery in due(self.config, self.outgoing, datetime.now().astimezone()):
            self._wait(delivery)
        if not self.waiting:
            return TIMER
        channels = {channel.name: channel for channel in self.config.channels}
        kept = []
        for one in list(self.waiting):  # events may add to it meanwhile
            self.waiting.remove(one)
            channel = channels.get(one.delivery.channel)
            if channel is None:
                continue  # no longer configured
            try:
                await asyncio.to_thread(send, channel, one.delivery.message)
                self._delivered += 1
            except (DeliveryError, ConfigError) as error:
                one.tries += 1
                self._failed += 1
                context.logger.warning("%r was not delivered to %s: %s", one.delivery.message.title, channel.name, error.problem)
                if one.tries < MAX_TRIES:
                    kept.append(one)
                else:
                    self._dropped += 1
        self.waiting = [*kept, *self.waiting]
        self._store(context)
        return AGAIN if kept else TIMER

    def stats(self) -> NotifyStats:
        """Counts."""
        return NotifyStats(delivered=self._delivered, failed=self._failed, dropped=self._dropped, waiting=len(self.waiting))

    def _take(self, event: events.AnyEvent, context: Context) -> None:
        message = message_of(event, self.outgoing)
        if message is None:
            return
        over = isinstance(event, events.Alert) and event.state == "cleared"
        for delivery in route(message, self.config, self.outgoing, datetime.now().astimezone(), over=over):
            self._wait(delivery)
        self._store(context)

    def _wait(self, delivery: Delivery) -> None:
        self.waiting.append(Waiting(delivery))
        if len(self.waiting) > MAX_WAITING:
            del self.waiting[0]
            self._dropped += 1

    def _store(self, context: Context) -> None:
        context.state[STATE_KEY] = msgspec.to_builtins(self.outgoing)
        context.state[WAITING_KEY] = msgspec.to_builtins(self.waiting)
