"""Calls the hooks of one plugin, event by event, and keeps its errors from ending it."""

from __future__ import annotations

import inspect
import logging
import time
from contextvars import ContextVar
from typing import Any

import msgspec
import pluggy

from trainbus.bus.events import BY_KIND, Alert, AnyEvent
from trainbus.bus.hosting.delivery import Delivery
from trainbus.bus.hosting.loading import Loaded
from trainbus.hookspecs import Context, kind_of_hook

handled_run: ContextVar[str] = ContextVar("handled_run", default="")
"""The run of the event that the running hook was given. A context variable, because a timer may run while a coroutine hook waits."""


class Caller(msgspec.Struct, frozen=True):
    """One hook, ready to be called."""

    name: str
    mark: bytes
    call: pluggy.HookCaller
    coroutine: bool


class Dispatcher:
    """The hooks of one plugin by kind of event.

    Args:
        loaded: The plugin.
        context: What its hooks are given.
        delivery: Told before and after each hook.
    """

    def __init__(self, loaded: Loaded, context: Context, delivery: Delivery, logger: logging.Logger) -> None:
        self._context = context
        self._delivery = delivery
        self._logger = logger
        self._errors = ErrorLog(loaded.name)
        callers = {
            hook: Caller(hook, hook.encode("ascii"), getattr(loaded.manager.hook, hook), loaded.is_coroutine(hook)) for hook in loaded.hooks
        }
        general = [callers["on_event"]] if "on_event" in callers else []
        self._general = tuple(general)
        self._by_type: dict[type[AnyEvent], tuple[Caller, ...]] = {
            BY_KIND[kind]: (*general, caller) for hook, caller in callers.items() if (kind := kind_of_hook(hook)) is not None
        }
        self.hook = ""
        """The hook at work."""
        self.waiting_since: float | None = None
        """Since when (monotonic) the coroutine hook at work is awaited."""

    @property
    def errors(self) -> int:
        """Hooks that raised."""
        return self._errors.total

    def may_wait(self, event: AnyEvent) -> bool:
        """Whether a coroutine hook handles events like this one."""
        return any(caller.coroutine for caller in self._callers(event))

    async def handle(self, event: AnyEvent) -> None:
        """Call every hook for the event, in order; returns when all have returned or raised.

        Raises:
            asyncio.CancelledError: Cancelled while a coroutine hook was waiting: the event is abandoned and comes again.
        """
        token = handled_run.set(event.run)
        offset = event.offset
        for caller in self._callers(event):
            self._delivery.begin(offset, caller.mark)
            self.hook = caller.name
            try:
                results = caller.call(event=event, context=self._context)
                if results:
                    await self._wait_for(results)
            except Exception as error:  # noqa: BLE001 - a hook may raise anything: logged with its event, counted, reported; the plugin goes on
                self.failed(caller.name, error, event)
        self._delivery.end(offset)
        self.hook = ""
        handled_run.reset(token)

    def failed(self, hook: str, error: BaseException, event: AnyEvent | None = None) -> None:
        """Log a hook that raised; raise or update its alert now and then."""
        what = "" if event is None else f" on {event.kind} of run {event.run!r} at offset {event.offset}"
        self._logger.error("%s raised %s%s: %s", hook, type(error).__name__, what, error, exc_info=error)
        alert = self._errors.add(hook, error, event)
        if alert is not None:
            self._context.publish(alert)

    def _callers(self, event: AnyEvent) -> tuple[Caller, ...]:
        return self._by_type.get(type(event), self._general)

    async def _wait_for(self, results: list[Any]) -> None:
        self.waiting_since = time.monotonic()
        try:
            for result in results:
                if inspect.isawaitable(result):
                    await result
        finally:
            self.waiting_since = None


class ErrorLog:
    """Counts what a plugin's hooks raise and says when that is worth an alert: at the 1st, 10th, 100th, ... of a kind.

    An alert's id follows from plugin, hook and exception type, so a restarted host repeats an alert instead of adding one.
    """

    def __init__(self, plugin: str) -> None:
        self.total = 0
        self._plugin = plugin
        self._counts: dict[str, int] = {}

    def add(self, hook: str, error: BaseException, event: AnyEvent | None = None) -> Alert | None:
        """Count one; the alert to publish, if it is time for one."""
        self.total += 1
        identity = f"plugin_error:{self._plugin}:{hook}:{type(error).__name__}"
        count = self._counts[identity] = self._counts.get(identity, 0) + 1
        if not _is_power_of_ten(count):
            return None
        evidence: dict[str, Any] = {"hook": hook, "exception": type(error).__name__, "text": str(error)[:500], "count": count}
        if event is not None:
            evidence |= {"kind": event.kind, "offset": event.offset, "run": event.run}
        times = "" if count == 1 else f" ({count} times)"
        return Alert(
            id=identity,
            rule="plugin_error",
            category="plugin",
            severity="warning",
            state="raised" if count == 1 else "updated",
            message=f"{self._plugin}: {hook} raised {type(error).__name__}: {str(error)[:200]}{times}",
            evidence=evidence,
            advice=f"The plugin goes on. The traceback is in logs/{self._plugin}.log.",
            plugin=self._plugin,
        )


def _is_power_of_ten(count: int) -> bool:
    while count % 10 == 0:
        count //= 10
    return count == 1


def dead_letter_alert(plugin: str, offset: int, attempts: int, hook: str) -> Alert:
    """An event was put aside because the plugin dies on it."""
    return Alert(
        id=f"dead_letter:{plugin}:{offset}",
        rule="dead_letter",
        category="plugin",
        severity="critical",
        message=f"{plugin} died {attempts} times on the event at offset {offset}; it is set aside and the plugin goes on.",
        evidence={"offset": offset, "attempts": attempts, "hook": hook},
        advice=f"See logs/{plugin}.log; `trainbus tail --after {offset - 1} --limit 1` shows the event.",
        plugin=plugin,
    )
