"""``trainbus NAME ...``: the commands that an installed plugin brings along (hook ``cli_commands``)."""

from __future__ import annotations

from importlib.metadata import entry_points

import click
import pluggy

ENTRY_POINT_GROUP = "trainbus.plugins"


def commands_of_plugin(name: str) -> click.Command | None:
    """The group of commands of the plugin with that entry-point name; None when there is no such plugin or it has none.

    Raises:
        PluginError: The plugin can't be imported.
    """
    found = entry_points(group=ENTRY_POINT_GROUP, name=name)
    if not found:
        return None
    from trainbus.errors import PluginError
    from trainbus.hookspecs import Hooks

    try:
        loaded = next(iter(found)).load()
        manager = pluggy.PluginManager("trainbus")
        manager.add_hookspecs(Hooks)
        manager.register(loaded() if isinstance(loaded, type) else loaded, name=name)
        commands = [command for some in manager.hook.cli_commands() for command in some]
    except Exception as error:
        problem = f"The plugin {name} can't be loaded: {type(error).__name__}: {error}"
        raise PluginError(problem, hint=f"`trainbus plugins check {name}` shows more.", plugin=name) from error
    if not commands:
        return None
    return click.Group(name, commands={str(command.name): command for command in commands}, help=f"Commands of the plugin {name}.")
