"""``trainbus init``: a commented `trainbus.toml` to begin with."""

from __future__ import annotations

from pathlib import Path

import click

from trainbus.bus.config import BusConfig
from trainbus.bus.config_docs import Setting, settings, toml_value
from trainbus.bus.config_file import FILE_NAME
from trainbus.bus.home import write_atomically
from trainbus.cli.options import json_option
from trainbus.cli.output import note, print_json
from trainbus.errors import ConfigError

PLUGINS = ("anomaly", "retention", "memory", "web", "inference")

ASKING = "inference"
"""The plugin that can't run before it is told which server and which questions."""

HEAD = """\
# trainbus: what `trainbus up` starts, and how. Every line that is commented out shows a default.
# `trainbus config show` prints what holds and where each value came from; `trainbus config check` only checks.

# Each runs in a process of its own. Remove a line to do without it; add what else is installed (`trainbus plugins list`).
plugins = [
{plugins}
]
"""

TAIL = """
# `trainbus train` reads this section; `trainbus train --help` lists the same settings.
[trainer]

# Each plugin has a section of its own; `trainbus config settings plugin.NAME` lists what can stand in it.
{sections}
"""


def template() -> str:
    """The text of a new file. It says nothing but defaults, apart from the list of plugins."""
    names = "\n".join(
        f'  "{name}",' if name != ASKING else f'  # "{name}" needs to know a server and questions: [plugin.{name}]' for name in PLUGINS
    )
    bus = "\n".join(["", "[bus]", *(_commented(setting) for setting in settings(BusConfig))])
    sections = "\n".join(f"# [plugin.{name}]" for name in PLUGINS)
    return HEAD.format(plugins=names) + bus + "\n" + TAIL.format(sections=sections)


def _commented(setting: Setting) -> str:
    value = toml_value(setting.default)
    return f"# {setting.meaning} Allowed: {setting.allowed}.\n#{setting.name} = {value or '...  (not set)'}"


@click.command(name="init")
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@json_option
@click.argument("path", type=click.Path(path_type=Path), default=FILE_NAME)
def command(path: Path, force: bool, as_json: bool) -> None:
    """Write a commented configuration to PATH (trainbus.toml; in a directory, under that name)."""
    file = path / FILE_NAME if path.is_dir() else path
    if file.exists() and not force:
        raise ConfigError(f"{file} is there already.", hint="Edit it, or overwrite it with --force.", file=str(file))
    try:
        write_atomically(file, template().encode(), mode=0o644)
    except OSError as error:
        raise ConfigError(f"{file} can't be written: {error.strerror}.", hint="Name another PATH.", file=str(file)) from error
    if as_json:
        print_json({"file": str(file)})
    else:
        click.echo(f"Wrote {file}")
        note("Next: `trainbus up` starts the broker and the plugins, `trainbus status` shows them.")
