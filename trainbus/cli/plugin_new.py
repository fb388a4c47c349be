"""``trainbus plugins new``."""

from __future__ import annotations

import keyword
import re
import shlex
from importlib import resources
from pathlib import Path
from string import Template

import click

from trainbus.bus.hosting import registry
from trainbus.cli.lazy import LAZY
from trainbus.cli.options import json_option
from trainbus.cli.output import print_json, stdout
from trainbus.errors import PluginError
from trainbus.hookspecs import HOOK_API
from trainbus.version import __version__

NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")

FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "__init__.py": "src/{module}/__init__.py",
    "plugin.py": "src/{module}/plugin.py",
    "test_plugin.py": "tests/test_plugin.py",
}
"""Templates (in ``trainbus/cli/plugin_template``), and what they become."""


@click.command(name="new")
@click.argument("name")
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False), help="Where to. Default: ./trainbus-NAME.")
@json_option
def command(name: str, directory: Path | None, as_json: bool) -> None:
    """Write a plugin of your own: a package with typed settings, two hooks, tests and a README.

    It installs with pip and passes its tests as it is: change it from there.
    """
    _refuse(name)
    folder = directory or Path(f"trainbus-{name.replace('_', '-')}")
    if folder.exists() and any(folder.iterdir()):
        raise PluginError(f"{folder} is there already, and not empty.", hint="Name another with --directory.", file=str(folder))
    words = _words(name)
    written = []
    for template, path in FILES.items():
        file = folder / path.format(**words)
        file.parent.mkdir(parents=True, exist_ok=True)
        source = resources.files("trainbus.cli").joinpath("plugin_template", f"{template}.template").read_text()
        file.write_text(Template(source).substitute(words))
        written.append(file)
    (folder / "src" / words["module"] / "py.typed").touch()
    if as_json:
        print_json({"plugin": name, "directory": str(folder), "files": [str(file) for file in written]})
        return
    here = str(folder) if folder.is_absolute() else f"./{folder}"  # without ./ pip would take it for a name
    out = stdout()
    out.print(f"{folder} holds a plugin that works. Next:\n")
    out.print(f"  pip install -e {shlex.quote(f'{here}[dev]')}", soft_wrap=True)
    out.print(f"  pytest {shlex.quote(here)}", soft_wrap=True)
    out.print(f"  trainbus plugins check {name}")
    out.print(f"  trainbus plugins add {name}\n")
    out.print(f"Its hooks are in {folder / 'src' / words['module'] / 'plugin.py'}.", soft_wrap=True)


def _refuse(name: str) -> None:
    """Raise when a plugin can't be called so, or should not."""
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        hint = "Small letters and digits, with - or _ between them, and a letter first: loss-limit."
        raise PluginError(f"A new plugin can't be called {name!r}.", hint=hint, found=name)
    if name in LAZY or name in registry.RESERVED:
        raise PluginError(f"`trainbus {name}` is a command: a plugin of that name could have none of its own.", hint="Choose another.")
    if name in (known := registry.installed()):
        owner = known[name].distribution
        raise PluginError(f"{owner} already brings a plugin called {name!r}.", hint="Choose another name, or uninstall it.", found=name)


def _words(name: str) -> dict[str, str]:
    parts = re.split("[-_]", name)
    return {
        "name": name,
        "distribution": f"trainbus-{'-'.join(parts)}",
        "module": f"trainbus_{'_'.join(parts)}",
        "class_name": "".join(part.capitalize() for part in parts),
        "version": __version__,
        "hook_api": str(HOOK_API),
    }
