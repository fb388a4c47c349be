"""``trainbus config show|check|path``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.text import Text

from trainbus.bus.config_docs import toml_value
from trainbus.bus.config_file import FILE_NAME, Loaded, find, load
from trainbus.cli.options import config_options, json_option
from trainbus.cli.output import NOTHING, note, print_json, stdout, table
from trainbus.errors import ConfigError


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


@command.command()
@config_options
@json_option
def check(config_path: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check the configuration and name every mistake; exit code 2 when there is one."""
    loaded = load(config_path, overrides=overrides)
    if as_json:
        print_json({"ok": True, "file": str(loaded.file) if loaded.file else None})
    else:
        click.echo(f"{loaded.file or 'The default configuration'} is all right.")
        note("Sections of plugins are checked in full when they start: `trainbus up` refuses what a plugin doesn't know.")


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
