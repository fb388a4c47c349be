"""``trainbus tidy``."""

from __future__ import annotations

from pathlib import Path

import click

from trainbus.bus.config_file import find, load
from trainbus.bus.home import home
from trainbus.bus.hosting.upkeep import tidy
from trainbus.cli.options import config_options, json_option
from trainbus.cli.output import print_json, print_table, size, table


@click.command(name="tidy")
@config_options
@click.option("--dry-run", "-n", is_flag=True, help="Only show what would go.")
@json_option
def command(config_path: Path | None, overrides: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Delete the oldest logs beyond bus.logs_bytes, and what killed processes left half written.

    `trainbus up` does the same each hour; this is for machines that only publish, by hand or by cron: it asks nothing, and a second call
    finds nothing to do. The journal has bounds of its own (bus.journal_max_age, bus.journal_max_bytes). Logs that are being written,
    spools and what plugins keep are never touched.
    """
    settings = load(find(config_path), overrides=overrides).config.bus
    removed = tidy(home(), settings, dry_run=dry_run)
    if as_json:
        print_json({"dry_run": dry_run, "removed": removed})
        return
    rows = ((one.path, size(one.bytes), one.reason) for one in removed)
    made = table("would go" if dry_run else "deleted", "size", "why", rows=rows, right=("size",))
    print_table(made, empty="Everything is within its bounds.")
