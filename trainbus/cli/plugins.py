"""``trainbus plugins list|add|remove|restart``, and the group for ``new`` and ``check``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.text import Text

from trainbus.bus import wire
from trainbus.bus.client import Client
from trainbus.bus.config_file import find, load
from trainbus.bus.home import home
from trainbus.bus.hosting import registry
from trainbus.bus.hosting.instance import read_running, supervisor_pid
from trainbus.cli.options import json_option
from trainbus.cli.output import note, print_json, stdout, table
from trainbus.cli.status_table import plugin_table
from trainbus.errors import ConfigError, TrainbusError, UnreachableError

ANSWER_WITHIN = 60.0
"""Seconds: a plugin that is in a hook is let finish before it is stopped."""

save_option = click.option("--save/--no-save", default=True, show_default=True, help="Also change the list in the configuration file.")


OTHERS = {"check": "trainbus.cli.plugin_check:command", "new": "trainbus.cli.plugin_new:command"}
"""Subcommands with a module of their own, imported when they are called."""


class _Plugins(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *OTHERS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in OTHERS:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = OTHERS[cmd_name].partition(":")
        found: click.Command = getattr(importlib.import_module(module), attribute)
        return found


@click.group(name="plugins", cls=_Plugins)
def command() -> None:
    """List, add, remove or restart plugins, also of a running system; make and check ones of your own."""


@command.command(name="list")
@click.option("--hooks/--no-hooks", default=True, show_default=True, help="Import each plugin to see which hooks it uses.")
@json_option
def list_command(hooks: bool, as_json: bool) -> None:
    """Every installed plugin: enabled or not, running or not, and the hooks that it uses."""
    running = read_running(home())
    file = Path(running.config) if running is not None and running.config else find(None)  # what runs knows its file best
    enabled = load(file).config.plugins if file is not None else []
    states = {plugin.name: plugin.state for plugin in running.plugins} if running is not None else {}
    rows = [_row(plugin, plugin.name in enabled, states.get(plugin.name), hooks) for plugin in registry.installed().values()]
    if as_json:
        print_json(rows)
        return
    made = table("plugin", "enabled", "state", "from", "hooks")
    for row in rows:
        used = Text(row["error"], style="red") if row["error"] else Text(", ".join(row["hooks"] or ["-"]))
        made.add_row(row["name"], "yes" if row["enabled"] else "no", row["state"] or "-", f"{row['distribution']} {row['version']}", used)
    stdout().print(made)


@command.command()
@click.argument("name")
@save_option
@json_option
def add(name: str, save: bool, as_json: bool) -> int:
    """Enable a plugin and start it, without touching the others.

    With a configuration file in use, its list is changed too, comments kept (--no-save: only what runs now).
    """
    registry.find(name)
    if supervisor_pid(home()) is None:
        _edit_only(name, save, wanted=True)
        return 0
    return _tell(_supervise("add", name, save=save), as_json)


@command.command()
@click.argument("name")
@save_option
@json_option
def remove(name: str, save: bool, as_json: bool) -> int:
    """Stop a plugin and disable it. Its settings, state and cursor stay, so that adding it again goes on where it was."""
    if supervisor_pid(home()) is None:
        _edit_only(name, save, wanted=False)
        return 0
    return _tell(_supervise("remove", name, save=save), as_json)


@command.command()
@click.argument("name")
@json_option
def restart(name: str, as_json: bool) -> int:
    """Stop a plugin in order and start it anew; also one that was parked as failed."""
    return _tell(_supervise("restart", name), as_json)


def _supervise(verb: str, name: str, **arguments: Any) -> wire.PluginStatus:
    with Client(timeout=ANSWER_WITHIN) as client:
        return msgspec.convert(client.supervise(verb, name, **arguments), wire.PluginStatus)


def _tell(status: wire.PluginStatus, as_json: bool) -> int:
    if as_json:
        print_json(status)
    else:
        stdout().print(plugin_table([status]))
    return 1 if status.state == "failed" else 0


def _edit_only(name: str, save: bool, *, wanted: bool) -> None:
    """Nothing runs: change the file alone."""
    file = find(None)
    if file is None or not save:
        hint = "Start it with `trainbus up`, or write a configuration with `trainbus init`."
        raise UnreachableError("Nothing runs, and there is no configuration file to change.", hint=hint)
    from trainbus.bus.hosting.enabled import disable, enable

    changed = (enable if wanted else disable)(file, name)
    if not changed and not wanted:
        near = registry.nearest(name, load(file).config.plugins)
        raise ConfigError(
            f"{file} does not enable {name!r}.{near}", hint="`trainbus plugins list` shows what is.", file=str(file), found=name
        )
    note(f"{file}: {name} {'is' if wanted else 'is no longer'} enabled; nothing runs now.")


def _row(plugin: registry.Installed, enabled: bool, state: str | None, hooks: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": plugin.name,
        "enabled": enabled,
        "state": state,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "target": plugin.target,
        "hooks": None,
        "error": "",
    }
    if hooks:
        try:
            row["hooks"] = list(_hooks(plugin))
        except TrainbusError as error:
            row["error"] = error.problem
    return row


def _hooks(plugin: registry.Installed) -> tuple[str, ...]:
    from trainbus.bus.hosting.loading import check_hooks, create

    return check_hooks(plugin, create(plugin))
