"""``trainbus attach``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from trainbus.bus.client import Client
from trainbus.bus.config_file import Loaded, load, parse_value
from trainbus.bus.credentials import PREFIX, VARIABLE, resolve, store_remote
from trainbus.bus.home import home
from trainbus.cli.options import config_options
from trainbus.cli.output import note
from trainbus.errors import ConfigError

ANSWER_WITHIN = 10.0
"""Seconds that a broker on another machine has for its first answer."""


@click.command(name="attach")
@click.argument("plugin")
@click.argument("token", required=False)
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="A setting of the plugin, over its section. Repeatable.")
@click.option("--name", default="", help="What a plugin given as module:object is called. Default: after the object.")
@config_options
def command(
    plugin: str, token: str | None, options: tuple[str, ...], name: str, config_path: Path | None, overrides: tuple[str, ...]
) -> int:
    """Run one plugin by hand until Ctrl-C, against the broker that runs here, or against that of another machine.

    PLUGIN is an installed plugin's name, or module:object of one in development, which needs no installation.

    TOKEN is the line that `trainbus keys invite` printed on the other machine; - reads it from standard input. It is kept in
    HOME/keys/remote, so that next time the name under which you were invited stands for it. TRAINBUS_TOKEN does the same.
    """
    from trainbus.bus.hosting import host, registry

    root = home()
    if token is not None:
        _use(root, token)
    # No broker, a dead one and a token that opens nothing are told at once here; later the host waits for one that went away.
    with Client(root=root, timeout=ANSWER_WITHIN) as client:
        client.status()
    if ":" in plugin:
        sys.path.insert(0, str(Path.cwd()))  # where a plugin in development lies; a console script does not look there
    found = registry.development(plugin, name) if ":" in plugin else registry.find(plugin)
    loaded = load(config_path, overrides=overrides)
    table = settings_of(found.name, options, loaded)
    arguments = [
        found.name, "--root", str(root),
        "--settings", msgspec.json.encode(loaded.config.bus).decode(), "--file", str(loaded.file or ""),
    ]  # fmt: skip
    return host.main([*arguments, "--target", found.target] if ":" in plugin else arguments, table)


def settings_of(name: str, options: tuple[str, ...], loaded: Loaded) -> dict[str, Any]:
    """The table ``[plugin.NAME]``, with each ``--option KEY=VALUE`` over it.

    Raises:
        ConfigError: An option has another form.
    """
    table = dict(loaded.config.plugin.get(name, {}))
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise ConfigError(f"--option {option} is no KEY=VALUE.", hint="For example: --option window=50", found=option)
        table[key] = parse_value(value)
    return table


def _use(root: Path, token: str) -> None:
    """Make a token, given or stored, the one of this process; a new one is stored.

    A token in the arguments can be seen by everybody on the machine (`ps`) for as long as the process lives, so this process then
    begins anew with the name in its place. Standard input and the environment are private from the start.
    """
    text = (click.prompt("token", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()) if token == "-" else token
    credentials = resolve(root, text)
    if text.strip().startswith(PREFIX):
        path = store_remote(root, credentials)
        note(f"The token of {credentials.name} ({credentials.role}) is kept in {path}; from now on its name does.")
    os.environ[VARIABLE] = credentials.name
    if token.strip().startswith(PREFIX):
        arguments = [credentials.name if argument == token else argument for argument in sys.argv[1:]]
        os.execv(sys.executable, [sys.executable, "-m", "trainbus", *arguments])
