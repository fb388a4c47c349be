"""The plugin contract: hook specifications, markers, the context that hooks are given, `HOOK_API`.

A plugin is any object (module, class or instance) registered under the entry-point group ``trainbus.plugins`` whose functions
are marked with `hookimpl`. Each hook may be a plain function or a coroutine; it may leave out arguments that it doesn't need.

Delivery is at least once: after a crash the last events come again, in order, so a hook must be a function of the events, their
stamped times and ``context.state``, and an alert's id must follow from these. A hook that raises is logged with its event, counted
and reported on the bus; the plugin goes on with the next event. Unless a hook says otherwise below, that is what raising does and
what replay means for it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec
import pluggy

from trainbus.bus import events

if TYPE_CHECKING:
    import click

HOOK_API = 1
"""Raised when a hook changes its meaning or arguments. New hooks and new optional arguments don't raise it."""

ENTRY_POINT_GROUP = "trainbus.plugins"

hookspec = pluggy.HookspecMarker("trainbus")
hookimpl = pluggy.HookimplMarker("trainbus")


class Panel(msgspec.Struct, kw_only=True, frozen=True):
    """A panel that the dashboard draws from events, without JavaScript.

    Args:
        id: Unique within the plugin.
        title: Shown above the panel.
        kind: How it is drawn.
        events: The kind of event that feeds it.
        fields: Dotted paths into the event: the series of a chart, the columns of a table, the one value of a gauge or text.
        x: Dotted path of a chart's horizontal axis.
    """

    id: str
    title: str
    kind: Literal["chart", "table", "text", "gauge"]
    events: str
    fields: tuple[str, ...]
    x: str = "step"


class LeaseRefusedError(Exception):
    """Somebody holds the opposite side of the lease: a checkpoint is being deleted, or read."""


class HeldLease(msgspec.Struct, kw_only=True, frozen=True):
    """A lease that somebody holds on ``resource``; it runs out in ``expires_in`` seconds unless it is renewed."""

    resource: str
    holder: str
    mode: str = "shared"
    reason: str = ""
    expires_in: float = 0.0


class Context(Protocol):
    """What a hook can see and do. The same for the plugins that ship with trainbus and for anybody's."""

    name: str
    config: Any
    """An instance of the plugin's config schema (a msgspec Struct), or an empty dict."""
    directory: Path
    """A directory of the plugin's own that survives restarts."""
    logger: logging.Logger
    state: MutableMapping[str, Any]
    """Durable small values (anything that msgpack can hold), committed together with the cursor."""

    def publish(self, event: events.Event) -> None:
        """Publish an event. Fills in source, seq, time and, where it is empty, the run of the event being handled. Never blocks."""

    def command(self, run: str, verb: str, *, reason: str = "", plugin: str = "", **arguments: Any) -> Awaitable[str]:
        """Ask a run, or a ``plugin`` about the run, for something. The awaitable (which needs not be awaited) gives the command's id."""

    def query(
        self, *, kinds: Sequence[str] = (), runs: Sequence[str] = (), after: int = -1, upto: int | None = None
    ) -> Iterator[events.AnyEvent]:
        """Events of the journal in offset order, page by page. Blocks the caller: for ``start`` and for small ranges."""

    def aquery(
        self, *, kinds: Sequence[str] = (), runs: Sequence[str] = (), after: int = -1, upto: int | None = None
    ) -> AsyncIterator[events.AnyEvent]:
        """As `query`, for coroutine hooks: does not block the loop."""

    def lease(
        self, resource: str, *, mode: Literal["shared", "exclusive"] = "shared", reason: str = "", ttl: float = 60.0
    ) -> AbstractContextManager[None]:
        """Hold a lease on a checkpoint id while the block runs; it is renewed in the background.

        Raises:
            LeaseRefusedError: Somebody holds the opposite side.
        """

    def held(self) -> list[HeldLease]:
        """All leases that are held now, by anybody: to show, or to plan with. Only `lease` itself is a promise. Blocks the caller."""

    def announce(self, *, url: str) -> None:
        """Tell the supervisor (and so ``trainbus status``) an address at which people reach this plugin."""


class Hooks:
    """All hooks. A plugin implements those that it needs; the host subscribes to their kinds only."""

    @hookspec
    def config_schema(self) -> type[msgspec.Struct]:  # type: ignore[empty-body]
        """The msgspec Struct that ``[plugin.NAME]`` is validated against. Called before `start`; must not touch anything."""

    @hookspec
    def web_panels(self) -> list[Panel]:  # type: ignore[empty-body]
        """Panels for the dashboard. Called once, before `start`."""

    @hookspec
    def cli_commands(self) -> list[click.Command]:  # type: ignore[empty-body]
        """Commands under ``trainbus NAME``. Called in the command line's process, without context; must import lazily."""

    @hookspec
    def start(self, context: Context) -> Any:
        """Called once before the first event. Raising ends the host with that error (it is restarted with growing pauses)."""

    @hookspec
    def stop(self, context: Context) -> Any:
        """Called once, after the last event, when the plugin is asked to end. It has `stop_timeout` seconds; not called on a crash."""

    @hookspec
    def every(self, context: Context) -> Any:
        """A timer: called after `start`; returns the seconds until it is called again, or None for never.

        When it raises, it is called again after 60 s. Not called on replay: results that must be the same on replay don't belong here.
        """

    @hookspec
    def on_event(self, event: events.AnyEvent, context: Context) -> Any:
        """Every event of every kind, also kinds that this version doesn't know."""

    @hookspec
    def on_run_started(self, event: events.RunStarted, context: Context) -> Any:
        """A training process began to work on a run."""

    @hookspec
    def on_run_ended(self, event: events.RunEnded, context: Context) -> Any:
        """A run ended or was lost."""

    @hookspec
    def on_phase(self, event: events.Phase, context: Context) -> Any:
        """A phase of the trainer started, progressed or ended."""

    @hookspec
    def on_step(self, event: events.Step, context: Context) -> Any:
        """An optimizer step."""

    @hookspec
    def on_eval(self, event: events.Eval, context: Context) -> Any:
        """An evaluation finished."""

    @hookspec
    def on_sample(self, event: events.Sample, context: Context) -> Any:
        """A question was answered."""

    @hookspec
    def on_checkpoint(self, event: events.Checkpoint, context: Context) -> Any:
        """A checkpoint changed state."""

    @hookspec
    def on_job(self, event: events.Job, context: Context) -> Any:
        """A data file changed state."""

    @hookspec
    def on_system(self, event: events.System, context: Context) -> Any:
        """The state of a machine."""

    @hookspec
    def on_metric(self, event: events.Metric, context: Context) -> Any:
        """A point of a named series."""

    @hookspec
    def on_alert(self, event: events.Alert, context: Context) -> Any:
        """An alert was raised, updated or cleared."""

    @hookspec
    def on_command(self, event: events.Command, context: Context) -> Any:
        """A run, or a plugin, was asked for something."""

    @hookspec
    def on_command_result(self, event: events.CommandResult, context: Context) -> Any:
        """What became of a command."""

    @hookspec
    def on_plugin(self, event: events.Plugin, context: Context) -> Any:
        """A plugin host changed state."""

    @hookspec
    def on_retention(self, event: events.Retention, context: Context) -> Any:
        """What is to become of checkpoints changed, or the disks that hold them."""

    @hookspec
    def on_gap(self, event: events.Gap, context: Context) -> Any:
        """Events are missing, and why."""

    @hookspec
    def on_heartbeat(self, event: events.Heartbeat, context: Context) -> Any:
        """A sign of life. Live only: heartbeats are not journaled, so they neither replay nor move the cursor."""


def kind_of_hook(hook: str) -> str | None:
    """The event kind that a hook handles: ``on_step`` → ``step``; None for other hooks and for `on_event`."""
    kind = hook.removeprefix("on_")
    return kind if hook.startswith("on_") and kind in events.BY_KIND else None
