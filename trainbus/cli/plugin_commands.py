"""What an installed plugin tells about itself in the command line's own process: its commands and its settings."""

from __future__ import annotations

from importlib.metadata import entry_points

import click
import msgspec
import pluggy

from trainbus.errors import PluginError
from trainbus.hookspecs import ENTRY_POINT_GROUP


def commands_of_plugin(name: str) -> click.Command | None:
    """``trainbus NAME ...``: the group of the plugin with that entry-point name; None when there is none or it has no commands.

    Raises:
        PluginError: The plugin can't be imported.
    """
    manager = _load(name)
    try:
        commands = [command for some in manager.hook.cli_commands() for command in some] if manager is not None else []
    except Exception as error:
        raise _broken(name, error) from error
    if not commands:
        return None
    return click.Group(name, commands={str(command.name): command for command in commands}, help=f"Commands of the plugin {name}.")


def schema_of_plugin(name: str) -> type[msgspec.Struct] | None:
    """The Struct of ``[plugin.NAME]``; None when the plugin has no settings.

    Raises:
        PluginError: There is no such plugin, or it can't be imported.
    """
    manager = _load(name)
    if manager is None:
        raise PluginError(f"No plugin {name} is installed.", hint="`trainbus plugins list` shows which are.", plugin=name)
    try:
        schemas: list[type[msgspec.Struct]] = manager.hook.config_schema()
    except Exception as error:
        raise _broken(name, error) from error
    return schemas[0] if schemas else None


def installed_plugins() -> list[str]:
    """Names of all installed plugins; none is imported."""
    return sorted({entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)})


def _load(name: str) -> pluggy.PluginManager | None:
    found = entry_points(group=ENTRY_POINT_GROUP, name=name)
    if not found:
        return None
    from trainbus.hookspecs import Hooks

    try:
        loaded = next(iter(found)).load()
        manager = pluggy.PluginManager("trainbus")
        manager.add_hookspecs(Hooks)
        manager.register(loaded() if isinstance(loaded, type) else loaded, name=name)
    except Exception as error:
        raise _broken(name, error) from error
    return manager


def _broken(name: str, error: Exception) -> PluginError:
    problem = f"The plugin {name} can't be loaded: {type(error).__name__}: {error}"
    return PluginError(problem, hint=f"Install what it needs, or ask those who made it: `trainbus plugins check {name}`.", plugin=name)
