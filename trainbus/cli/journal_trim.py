"""``trainbus journal trim``: forget a part of the history, by age, size or run."""

from __future__ import annotations

from pathlib import Path

import click

from trainbus.bus.broker.maintenance import journal_id
from trainbus.bus.broker.trimming import Trim, trim_of
from trainbus.bus.client import Client
from trainbus.bus.home import home
from trainbus.cli.app import UsageError
from trainbus.cli.history import known_run, parse_since
from trainbus.cli.options import byte_size, json_option, yes_option
from trainbus.cli.output import note, number, print_json, size, stderr
from trainbus.errors import JournalError

DELETION_SECONDS = 3_600.0
"""How long a deletion is waited for: some ten seconds for each million events. When the broker ends meanwhile, that is known at once."""


@click.command(name="trim")
@click.option("--older-than", metavar="TIME", help="Forget what is older: 30d, 12h, or a date such as 2026-05-01.")
@click.option(
    "--to-bytes", type=byte_size, metavar="SIZE", help="Forget the oldest until the file is so large at most: 500MB, 1GiB, or bytes."
)
@click.option("--run", metavar="RUN", help="Forget this run's events; with --older-than, its older ones. Its summary stays.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@yes_option
@json_option
def command(older_than: str | None, to_bytes: int | None, run: str | None, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Forget a part of the history, while training goes on, and give its room back to the file system.

    The running broker does it, in small steps between the events that come in. Summaries of runs stay (`trainbus runs delete` forgets
    these, too). A consumer, such as a plugin, that has not read what goes is told so by a gap event.
    """
    if to_bytes is not None and (older_than or run):
        raise UsageError("--to-bytes goes alone.", hint="It forgets the oldest events of all runs.")
    if not older_than and not run and to_bytes is None:
        raise UsageError("Nothing says what to forget.", hint="Use --older-than 30d, --to-bytes 1GB or --run ID. Add --dry-run to try.")
    path = home() / "journal.db"
    before = parse_since(older_than) if older_than else None
    with Client() as client:
        journal = client.status().journal
        name = known_run(client, run).run if run else ""
        if not path.is_file() or journal_id(path) != journal:
            problem = f"The bus that answers keeps its journal elsewhere, not at {path}."
            raise JournalError(problem, hint="Run this on the machine of the bus, with its TRAINBUS_HOME.", file=str(path))
        trim = trim_of(path, run=name, before=before, max_bytes=to_bytes)
        held = _bytes(path)
        if trim is not None and not dry_run:
            if not yes:
                click.confirm(f"Forget {_told(trim)} for good?", abort=True, err=True)
            with stderr().status("deleting ..."):
                client.trim_journal(trim.upto, first=trim.first, run=trim.run, timeout=DELETION_SECONDS)
    if as_json:
        print_json({"file": str(path), "trim": trim, "done": trim is not None and not dry_run, "bytes_before": held, "bytes": _bytes(path)})
    elif trim is None:
        click.echo(f"Nothing to forget: {path} takes {size(held)}.")
    elif dry_run:
        click.echo(f"Would forget {_told(trim)}.")
    else:
        click.echo(f"Forgot {_told(trim)}. {path}: {size(held)} before, {size(_bytes(path))} now.")
    if trim is not None and trim.behind and not as_json:
        note(f"Had not read all of it, and {'would be' if dry_run else 'was'} told by a gap event: {', '.join(trim.behind)}")


def _told(trim: Trim) -> str:
    whose = f" of {trim.run}" if trim.run else ""
    return f"{number(trim.events)} events{whose} (offsets {trim.first} to {trim.upto}, about {size(trim.bytes)})"


def _bytes(path: Path) -> int:
    """Of the journal with its write-ahead log."""
    return sum(file.stat().st_size for file in (path, path.with_name(f"{path.name}-wal")) if file.exists())
