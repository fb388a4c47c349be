"""The plugin contract: hook specifications, markers, the context that hooks are given, `HOOK_API`.

A plugin is any object (module, class or instance) registered under the entry-point group ``trainbus.plugins`` whose functions
are marked with `hookimpl`. Each hook may be a plain function or a coroutine; it may leave out arguments that it doesn't need.

Delivery is at least once: after a crash the last events come again, in order, so a hook must be a function of the events, their
stamped times and ``context.state``, and an alert's id must follow from these. Each hook says when it is called, what raising does and
what replay means for it; a test sees to that. Never are two hooks with events called at once, except `every`, see there.
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
"""The version of the contract between plugins and trainbus; docs/plugins.md says what it promises.

Raised when a hook changes its meaning or loses an argument. New hooks, and new arguments that a plugin may leave out, don't raise it.
"""

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
    journal: str
    """Identity of the journal that offsets belong to: whoever keeps an offset elsewhere than in `state` keeps this beside it."""

    def publish(self, event: events.Event) -> None:
        """Publish an event. Fills in source, seq, time and, where it is empty, the run of the event being handled. Never blocks."""

    async def flush(self, timeout: float = 10.0) -> bool:
        """Wait until the journal has everything that this plugin has published, also what a process of it that died has left.

        Returns:
            False when it has not within ``timeout`` seconds. Nothing is lost then either: it is on its way.
        """
        raise NotImplementedError

    def command(self, run: str, verb: str, *, reason: str = "", plugin: str = "", **arguments: Any) -> Awaitable[str]:
        """Ask a run, or a ``plugin`` about the run, for something. The awaitable (which needs not be awaited) gives the command's id."""

    def supervise(self, verb: str, name: str = "", **arguments: Any) -> Awaitable[Any]:
        """Ask the supervisor about plugins: ``plugins``, ``installed``, ``log``, ``add``, ``remove`` or ``restart``. For coroutine hooks.

        Raises:
            TrainbusError: When awaited: no supervisor answers, or it refuses. Where keys are in use it needs an admin's.
        """

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
        """The msgspec Struct that ``[plugin.NAME]`` is validated against.

        - Called: Before all other hooks, in the plugin's host and by commands that check a configuration. It must not touch anything.
        - Raising: The plugin is refused: it doesn't start, and trying again would not help.
        - Replay: Not replayed. A setting that changes is a new start of the plugin, which goes on at its cursor.
        """

    @hookspec
    def web_panels(self) -> list[Panel]:  # type: ignore[empty-body]
        """Panels for the dashboard.

        - Called: In the plugin's host, before `start`. It must not touch anything.
        - Raising: The plugin is refused: it doesn't start, and trying again would not help.
        - Replay: Not replayed. Panels are drawn from the events of the journal, so they show the history too.
        """

    @hookspec
    def cli_commands(self) -> list[click.Command]:  # type: ignore[empty-body]
        """Commands under ``trainbus NAME``.

        - Called: In the process of the command line, without context, also while no broker runs. It must import lazily.
        - Raising: The command line says so in one line and exits with 6.
        - Replay: Not replayed.
        """

    @hookspec
    def start(self, context: Context) -> Any:
        """The plugin begins, or begins again.

        - Called: Once in each process, before the first event.
        - Raising: Ends the process. It is restarted with growing pauses, and parked as failed when it keeps dying.
        - Replay: After a crash it is called again, and ``context.state`` is what was committed with the cursor.
        """

    @hookspec
    def stop(self, context: Context) -> Any:
        """The plugin is asked to end.

        - Called: Once, after the last event, with at most `stop_timeout` seconds in all. Not after a crash.
        - Raising: Logged and counted; the process ends all the same.
        - Replay: Not replayed. What must last is written when it happens, not here.
        """

    @hookspec
    def every(self, context: Context) -> Any:
        """A timer; returns the seconds until it is called again, or None for never.

        - Called: After `start`, then as it asked for. While a coroutine hook waits, it may be called in between.
        - Raising: Logged, counted and reported; it is called again after 60 s.
        - Replay: Not called on replay: results that must be the same on replay don't belong here.
        """

    @hookspec
    def on_event(self, event: events.AnyEvent, context: Context) -> Any:
        """Every event of every kind, also kinds that this version doesn't know.

        - Called: For each event, before the hook of its kind.
        - Raising: Logged with the event, counted, and reported by an alert of rule `plugin_error`; the hook of its kind is called all
          the same.
        - Replay: After a crash, from the last committed event on, in order, with the state of that commit.
        """

    @hookspec
    def on_run_started(self, event: events.RunStarted, context: Context) -> Any:
        """A training process began to work on a run.

        - Called: At the beginning of a run, and again for each process that resumes it (``resumed_from`` is then set).
        - Raising: Logged with the event, counted, and reported by an alert of rule `plugin_error`; the next event follows.
        - Replay: After a crash, from the last committed event on, in order, with the state of that commit.
        """

    @hookspec
    def on_run_ended(self, event: events.RunEnded, context: Context) -> Any:
        """A run ended or was lost.

        - Called: At the end of a run; also after ``lost_after`` seconds of silence (outcome ``lost``), of which the run may come back.
        - Raising: Logged with the event, counted, and reported by an alert of rule `plugin_error`; the next event follows.
        - Replay: After a crash, from the last committed event on, in order, with the state of that commit.
        """

    @hookspec
    def on_phase(self, event: events.Phase, context: Context) -> Any:
        """A phase of the trainer started, progressed or ended.

        - Called: At the start and end of each phase, in between ten times a second at most.
        - Raising: Logged with the event, counted, and reported by an alert of rule `plugin_error`; the next event follows.
        - Replay: After a crash, from the last committed event on, in order, with the state of that commit.
        """

    @hookspec
    def on_step(self, event: events.Step, context: Context) -> Any:
        """An optimizer step.

        - Called: For each step of each rank that publishes, in the order of the journal.
        - Raising: Logged with the event, counted, and reported by an alert of rule `plugin_error`; the next event follows.
        - Replay: After a crash, from the last committed event on, in order, with the state of that commit.
        """

    @hookspec
    def on_eval(self, event: events.Eval, context: Context) -> Any:
        """An evaluation finished.

        - Called: For each evaluation set and each checkpoint that was measured, also long after its step.
        - Raising: Logged with the event, counted, and reported by an alert of rule `plugin_error`; the next event follows.
        - Replay: After a crash, from the last committed event on, in order, with the state of that commit.
        """

    @hookspec
    def on_sample(self, event: events.Sample, context: Context) -> Any:
        """A question was answered.

        - Called: For each question of an evaluation.
        - Raising: Logged with the event, counted, and reported by an alert of rule `plugin_error`; the next event follows.
        - Replay: After a crash, from the last committed event on, in order, with the state of that commit.
        """

    @hookspec
    def on_checkpoint(self, event: events.Checkpoint, context: Context) -> Any:
        """A checkpoint changed state.

        - Called: For each of ``writing``, ``complete`` and ``deleted``.
        - Raising: Logged with the event, counted, and reported by an alert of rule `plugin_error`; the next event follows.
        - Replay: After a crash, from the last committed event on, in order, with the state of that commit. By then it may have been
          deleted.
        """

    @hookspec
    def on_job(self, event: events.Job, context: Context) -> Any:
        """A data file changed state.

        - Called: Each time that a data file of the trainer's queue changes state.
        - Raising: Logged with the event, counted, and reported by an alert of rule `plugin_error`; the next event follows.
        - Replay: After a crash, from the last committed event on, in order, with the state of that commit.
        """

    @hookspec
    def on_system(self, event: events.System, context: Context) -> Any:
        """The state of a machine.

        - Called: For each measurement that the memory plugin, or another, publishes.
        - Raising: Logged with the event, counted, and reported by an alert of rule `plugin_error`; the next event follows.
        - Replay: After a crash, from the last committed event on, in order, with the state of that commit.
        """

    @hookspec
    def on_metric(self, event: events.Metric, context: Context) -> Any:
        """A point of a named series.

        - Called: For each point that anybody publishes, this plugin's own included.
        - Raising: Logged with the event, counted, and reported by an alert of rule `plugin_error`; the next event follows.
        - Replay: After a crash, from the last committed event on, in order, with the state of that commit.
        """

    @hookspec
    def on_alert(self, event: events.Alert, context: Context) -> Any:
        """An alert was raised, updated or cleared.

        - Called: For each state of each alert, this plugin's own included: publishing an alert here for each alert never ends.
        - Raising: Logged with the event, counted, and reported by an alert of rule `plugin_error`; the next event follows.
        - Replay: After a crash, from the last committed event on, in order, with the state of that commit. The same alert may be
          there twice: go by its id.
        """

    @hookspec
    def on_command(self, event: events.Command, context: Context) -> Any:
        """A run, or a plugin, was asked for something.

        - Called: When a command is journaled, whether or not the run obeys it.
        - Raising: Logged with the event, counted, and reported by an alert of rule `plugin_error`; the next event follows.
        - Replay: After a crash, from the last committed event on, in order, with the state of that commit.
        """

    @hookspec
    def on_command_result(self, event: events.CommandResult, context: Context) -> Any:
        """What became of a command.

        - Called: When the run accepts, does or refuses a command.
        - Raising: Logged with the event, counted, and reported by an alert of rule `plugin_error`; the next event follows.
        - Replay: After a crash, from the last committed event on, in order, with the state of that commit.
        """

    @hookspec
    def on_plugin(self, event: events.Plugin, context: Context) -> Any:
        """A plugin host changed state.

        - Called: For each change of state of any plugin, this one included.
        - Raising: Logged with the event, counted, and reported by an alert of rule `plugin_error`; the next event follows.
        - Replay: After a crash, from the last committed event on, in order, with the state of that commit.
        """

    @hookspec
    def on_retention(self, event: events.Retention, context: Context) -> Any:
        """What is to become of checkpoints changed, or the disks that hold them.

        - Called: When the retention plugin has looked and something is no longer as it last told; once in full when it starts.
        - Raising: Logged with the event, counted, and reported by an alert of rule `plugin_error`; the next event follows.
        - Replay: After a crash, from the last committed event on, in order, with the state of that commit.
        """

    @hookspec
    def on_gap(self, event: events.Gap, context: Context) -> Any:
        """Events are missing, and why.

        - Called: In the place of the events that are missing.
        - Raising: Logged with the event, counted, and reported by an alert of rule `plugin_error`; the next event follows.
        - Replay: After a crash, from the last committed event on, in order, with the state of that commit.
        """

    @hookspec
    def on_heartbeat(self, event: events.Heartbeat, context: Context) -> Any:
        """A sign of life.

        - Called: For each heartbeat of each publisher while the plugin runs; its offset is -1.
        - Raising: Logged with the event, counted, and reported by an alert of rule `plugin_error`; the next event follows.
        - Replay: Never: heartbeats are not journaled, so they don't move the cursor either.
        """


def kind_of_hook(hook: str) -> str | None:
    """The event kind that a hook handles: ``on_step`` → ``step``; None for other hooks and for `on_event`."""
    kind = hook.removeprefix("on_")
    return kind if hook.startswith("on_") and kind in events.BY_KIND else None
