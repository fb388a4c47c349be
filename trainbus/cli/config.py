"""``trainbus config show|settings|check|path``."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from rich.text import Text

from trainbus.bus.config import BusConfig
from trainbus.bus.config_docs import Setting, settings, toml_value
from trainbus.bus.config_file import FILE_NAME, Loaded, find, load, refuse
from trainbus.bus.validation import Mistake, mistakes
from trainbus.cli.app import UsageError
from trainbus.cli.options import config_options, json_option
from trainbus.cli.output import NOTHING, note, print_json, print_table, stdout, table
from trainbus.errors import ConfigError


class NoSettings(msgspec.Struct, forbid_unknown_fields=True):
    """The schema of a plugin that has none."""


@click.group(name="config")
def command() -> None:
    """Show or check the configuration: trainbus.toml, environment and --set together."""


@command.command()
@config_options
@json_option
def show(config_path: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print every setting, its value and where the value came from."""
    loaded = load(config_path, overrides=overrides)
    if as_json:
        print_json({"file": str(loaded.file) if loaded.file else None, "settings": _settings(loaded)})
        return
    shown = table("setting", "value", "from", title=str(loaded.file) if loaded.file else f"no {FILE_NAME}: defaults")
    for key, value in loaded.values().items():
        origin = loaded.origin(key)
        style = "dim" if origin.source == "default" else ""
        shown.add_row(Text(key, style=style), Text(toml_value(value) or NOTHING, style=style), Text(origin.where or "default", style=style))
    stdout().print(shown)


def _settings(loaded: Loaded) -> list[dict[str, object]]:
    found = []
    for key, value in loaded.values().items():
        origin = loaded.origin(key)
        found.append({"key": key, "value": value, "source": origin.source, "where": origin.where or None})
    return found


@command.command(name="settings")
@click.argument("section", default="bus")
@json_option
def settings_(section: str, as_json: bool) -> None:
    """List what can stand in SECTION: bus (the default), trainer, or plugin.NAME."""
    schema = _schema(section)
    found = settings(schema) if schema is not None else []
    if as_json:
        print_json(found)
        return
    rows = ((one.name, _default(one), one.allowed, one.meaning) for one in found)
    print_table(table("setting", "default", "allowed", "meaning", rows=rows), empty=f"[{section}] has no settings.")


def _schema(section: str) -> type[msgspec.Struct] | None:
    if section == "bus":
        return BusConfig
    if section == "trainer":
        from trainbus.trainer_node.config import TrainerConfig

        return TrainerConfig
    if section.startswith("plugin."):
        from trainbus.cli.plugin_commands import schema_of_plugin

        return schema_of_plugin(section.removeprefix("plugin."))
    raise UsageError(f"There is no section `{section}` to list.", hint="Sections: bus, trainer, plugin.NAME.", found=section)


def _default(setting: Setting) -> str | None:
    return "must be set" if setting.required else toml_value(setting.default) or None


@command.command()
@config_options
@json_option
def check(config_path: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check the configuration and name every mistake; exit code 2 when there is one."""
    loaded = load(config_path, overrides=overrides)
    unused = _check_sections(loaded)
    if as_json:
        print_json({"ok": True, "file": str(loaded.file) if loaded.file else None, "unused": unused})
        return
    click.echo(f"{loaded.file or 'The default configuration'} is all right.")
    for section in unused:
        note(f"[{section}] is not used: no plugin of that name is installed.")


def _check_sections(loaded: Loaded) -> list[str]:
    """What the owners of sections would say: trainer and plugins (which are imported for it). Returns the sections of nobody."""
    from trainbus.cli.plugin_commands import installed_plugins, schema_of_plugin
    from trainbus.trainer_node.config import TrainerConfig

    config, installed = loaded.config, installed_plugins()
    found = mistakes(config.trainer, TrainerConfig, "trainer")
    for place, name in enumerate(config.plugins):
        if name not in installed:
            allowed = f"an installed plugin: {', '.join(installed)}"
            found.append(Mistake(key=f"plugins[{place}]", found=toml_value(name), allowed=allowed))
    for name, section in config.plugin.items():
        if name in installed:
            found += mistakes(section, schema_of_plugin(name) or NoSettings, f"plugin.{name}")
    refuse(found, file=loaded.file, origins=loaded.origins)
    return [f"plugin.{name}" for name in config.plugin if name not in installed]


@command.command()
@config_options
@json_option
def path(config_path: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print which file is used; exit code 2 when there is none."""
    file = find(config_path)
    if file is None:
        raise ConfigError(f"There is no {FILE_NAME} here.", hint="`trainbus init` writes one; until then the defaults hold.")
    if as_json:
        print_json({"file": str(file.resolve())})
    else:
        click.echo(str(file.resolve()))
