"""``trainbus plugins check``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.text import Text

from trainbus.bus.config_file import load
from trainbus.bus.hosting import registry
from trainbus.cli.attach import settings_of
from trainbus.cli.lazy import LAZY
from trainbus.cli.options import config_options, json_option
from trainbus.cli.output import print_json, state, stdout, table
from trainbus.testing.check import PluginCheck, check_plugin
from trainbus.testing.inspection import Finding, fail
from trainbus.testing.recordings import RECORDED


@click.command(name="check")
@click.argument("name")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="A setting of the plugin, over its section. Repeatable.")
@click.option(
    "--history", type=click.Choice(list(RECORDED)), help="Also give its hooks the events of a recorded run, as if it happened now."
)
@click.option("--start/--no-start", default=True, show_default=True, help="Start it against a broker of its own, and stop it.")
@config_options
@json_option
def command(
    name: str,
    options: tuple[str, ...],
    history: str | None,
    start: bool,
    config_path: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> int:
    """Check a plugin, with advice for each finding: package, import time, hooks, HOOK_API, settings, handshake, stop.

    NAME is an installed plugin, or module:object of one in development. It is started with the settings that hold here, against a broker
    of its own in a temporary folder: a bus that runs is not touched. What `start` does outside, it does. Exit code 1 when something fails.
    """
    plugin = registry.development(name) if ":" in name else registry.find(name)
    config = settings_of(plugin.name, options, load(config_path, overrides=overrides))
    report = check_plugin(name, config=config, history=history or "", start=start)
    if plugin.name in LAZY:
        taken = fail("name", f"`trainbus {plugin.name}` is a command", "Rename its entry point: commands of its own could not be reached.")
        report = PluginCheck(plugin=report.plugin, findings=(*report.findings, taken))
    if as_json:
        print_json({"ok": report.ok, "plugin": report.plugin, "findings": report.findings})
    else:
        rows = ((one.check, state(one.state), Text.assemble(one.found, *_mend(one))) for one in report.findings)
        stdout().print(table("check", "state", "found", rows=rows))
    return 0 if report.ok else 1


def _mend(finding: Finding) -> list[tuple[str, str]]:
    return [(f"\n{finding.mend}", "cyan")] if finding.mend else []
