"""``trainbus init``: a commented `trainbus.toml` to begin with, for the machine that it finds."""

from __future__ import annotations

from pathlib import Path

import click

from trainbus.bus.config import BusConfig
from trainbus.bus.config_docs import Setting, settings, toml_value
from trainbus.bus.config_file import FILE_NAME
from trainbus.bus.home import write_atomically
from trainbus.cli.hardware import Hardware, look
from trainbus.cli.options import json_option
from trainbus.cli.output import note, print_json
from trainbus.cli.suggest import suggest
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

TRAINER = """
# `trainbus train` reads this section; `trainbus config settings trainer` lists all that can stand in it.
# What is set here suits this machine: {machine}
[trainer]
# A local directory or a hub name; `trainbus train --estimate` says what a model needs.
#model = "Qwen/Qwen3-1.7B"
# Files that are put there are trained on one after the other, in one run: `trainbus train`.
#inbox = "data/inbox"
{settings}
"""

TAIL = """
# Each plugin has a section of its own; `trainbus config settings plugin.NAME` lists what can stand in it.
{sections}
"""


def template(machine: Hardware) -> str:
    """The text of a new file. It says nothing but defaults, apart from the list of plugins and from what ``machine`` suggests."""
    names = "\n".join(
        f'  "{name}",' if name != ASKING else f'  # "{name}" needs to know a server and questions: [plugin.{name}]' for name in PLUGINS
    )
    bus = "\n".join(["", "[bus]", *(_commented(setting) for setting in settings(BusConfig))])
    sections = "\n".join(f"# [plugin.{name}]" for name in PLUGINS)
    suggested = "\n".join(f"# {one.why}\n{one.key} = {toml_value(one.value)}" for one in suggest(machine))
    trainer = TRAINER.format(machine=machine.words(), settings=suggested)
    return HEAD.format(plugins=names) + bus + "\n" + trainer + TAIL.format(sections=sections)


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
        write_atomically(file, template(look(file.parent)).encode(), mode=0o644)
    except OSError as error:
        raise ConfigError(f"{file} can't be written: {error.strerror}.", hint="Name another PATH.", file=str(file)) from error
    if as_json:
        print_json({"file": str(file)})
    else:
        click.echo(f"Wrote {file}")
        note("Next: `trainbus up` starts the broker and the plugins, `trainbus status` shows them.")
