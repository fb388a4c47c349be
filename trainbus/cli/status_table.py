"""How the state of broker, runs, sources and plugins looks in a terminal: shared by `up`, `status` and `plugins`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trainbus.bus import wire
from trainbus.bus.hosting.instance import Running
from trainbus.cli.output import age, duration, number, size, state, table

MAX_ROWS = 10
"""Runs and sources shown: the newest. `trainbus runs list` shows all."""


def plugin_table(plugins: Iterable[wire.PluginStatus]) -> RenderableType:
    """One line for each plugin, and below what needs room: addresses and errors, each by the plugin's name."""
    made = table("plugin", "state", "pid", "lag", "restarts", "dead letters", "up", right=("pid", "lag", "restarts", "dead letters"))
    told: list[RenderableType] = []
    for plugin in plugins:
        if plugin.url:
            told.append(Text.assemble((f"{plugin.name}: ", "bold"), (plugin.url, "cyan")))
        if plugin.error:
            told.append(Text.assemble((f"{plugin.name}: ", "bold"), (plugin.error, "red")))
        made.add_row(
            plugin.name,
            state(plugin.state),
            str(plugin.pid or "-"),
            number(plugin.lag),
            str(plugin.restarts),
            Text(str(plugin.dead_letters), style="red" if plugin.dead_letters else ""),
            duration(plugin.uptime),
        )
    return Group(made, *told)


def broker_lines(status: wire.BrokerStatus) -> Text:
    """The broker in two lines."""
    lines = Text.assemble(
        ("broker ", "bold"),
        ("running", "green"),
        f"  pid {status.pid}  up {duration(status.uptime)}  {status.router}  {status.xpub}\n",
        f"journal {size(status.journal_bytes)}, {number(status.events)} events, head {status.head}  {status.journal_path}",
    )
    if status.commit_failures:
        lines.append(f"\n{status.commit_failures} commits failed; last: {status.last_error}", style="bold red")
    if status.keys is not None:
        lines.append(f"\nkeys: {status.keys.clients} clients may come in")
        if status.keys.problem:
            lines.append(f"\n{status.keys.problem}", style="bold red")
    if status.supervisor is None:
        lines.append("\nno supervisor: plugins are not looked after (`trainbus up` starts one)", style="yellow")
    else:
        lines.append(f"\nsupervisor {status.supervisor}")
    return lines


def run_table(runs: Sequence[wire.RunInfo]) -> Table:
    """The newest runs."""
    made = table("run", "state", "step", "updated", "events", "why", right=("step", "events"))
    for run in runs[:MAX_ROWS]:
        step = "-" if run.last_step is None else str(run.last_step) + (f" / {run.total_steps}" if run.total_steps else "")
        made.add_row(run.run, state(run.state), step, age(run.updated), number(run.events), run.reason)
    return made


def source_table(sources: Sequence[wire.SourceStatus]) -> Table:
    """The publishers that the broker has heard of."""
    made = table("source", "run", "host", "pid", "state", "silent", "events", right=("pid", "silent", "events"))
    for source in sources[:MAX_ROWS]:
        name = source.source[:8] + (" (owner)" if source.owner else "")
        made.add_row(
            name, source.run, source.host, str(source.pid), state(source.state), duration(source.silent_for), number(source.expected)
        )
    return made


def overview(status: wire.BrokerStatus, runs: Sequence[wire.RunInfo], plugins: Sequence[wire.PluginStatus] | None) -> RenderableType:
    """Everything."""
    parts: list[RenderableType] = [broker_lines(status)]
    if plugins:
        parts.append(plugin_table(plugins))
    if runs:
        parts.append(run_table(runs))
    if status.sources:
        parts.append(source_table(status.sources))
    return Group(*parts)


def without_broker(running: Running) -> RenderableType:
    """What the supervisor wrote down, when the broker doesn't answer."""
    why = f": {running.broker_error}" if running.broker_error else ""
    head = Text.assemble(
        ("broker ", "bold"),
        (f"does not answer ({running.broker_state}{why})", "bold red"),
        f"\nsupervisor {running.pid} lives; events wait in the spools of those who publish them",
    )
    return Group(head, plugin_table(running.plugins)) if running.plugins else head
