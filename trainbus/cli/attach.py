"""``trainbus attach``."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from trainbus.bus.client import Client
from trainbus.bus.config_file import load, parse_value
from trainbus.bus.home import home
from trainbus.cli.options import config_options
from trainbus.errors import ConfigError


@click.command(name="attach")
@click.argument("plugin")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="A setting of the plugin, over its section. Repeatable.")
@click.option("--name", default="", help="What a plugin given as module:object is called. Default: after the object.")
@config_options
def command(plugin: str, options: tuple[str, ...], name: str, config_path: Path | None, overrides: tuple[str, ...]) -> int:
    """Run one plugin by hand against the broker that runs here, until Ctrl-C.

    PLUGIN is an installed plugin's name, or module:object of one in development, which needs no installation.
    """
    from trainbus.bus.hosting import host, registry

    root = home()
    with Client(root=root) as client:
        client.status()  # no broker, or a dead one, is told at once here; later the host waits for one that went away
    found = registry.development(plugin, name) if ":" in plugin else registry.find(plugin)
    loaded = load(config_path, overrides=overrides)
    table = dict(loaded.config.plugin.get(found.name, {}))
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise ConfigError(f"--option {option} is no KEY=VALUE.", hint="For example: --option window=50", found=option)
        table[key] = parse_value(value)
    arguments = [
        found.name, "--root", str(root), "--options", msgspec.json.encode(table).decode(),
        "--settings", msgspec.json.encode(loaded.config.bus).decode(), "--file", str(loaded.file or ""),
    ]  # fmt: skip
    return host.main([*arguments, "--target", found.target] if ":" in plugin else arguments)
