"""``trainbus journal``: the history as a file: what it holds, whether it is whole, a copy of it."""

from __future__ import annotations

import datetime
from pathlib import Path

import click
from rich.text import Text

from trainbus.bus.broker import maintenance
from trainbus.bus.home import home
from trainbus.cli.journal_trim import command as trim_command
from trainbus.cli.options import json_option
from trainbus.cli.output import age, number, print_json, print_table, size, stderr, stdout, table
from trainbus.errors import JournalError

LARGEST = 15
"""Topics that `journal show` names."""


@click.group(name="journal")
def command() -> None:
    """The journal as a file. Nothing here stops a training or the broker.

    How much is kept is set by bus.journal_max_age and bus.journal_max_bytes: the broker deletes the oldest events by itself, gives their
    room back, and tells consumers that had not read them. `trainbus journal trim` does it once, by hand. `trainbus runs delete` forgets
    one run.
    """


command.add_command(trim_command)


@command.command()
@json_option
def show(as_json: bool) -> None:
    """Show how large the journal is, and which runs and kinds make it so."""
    found = maintenance.describe(_file())
    if as_json:
        print_json(found)
        return
    console = stdout()
    console.print(Text(f"{found.path}  journal {found.journal}, schema {found.schema}"), soft_wrap=True)
    span = f", from {age(found.oldest)} to {age(found.newest)}" if found.oldest is not None and found.newest is not None else ""
    console.print(f"{number(found.events)} events up to offset {number(found.head)}{span}")
    console.print(f"{size(found.bytes)}, of which {size(found.free_bytes)} free; write-ahead log {size(found.log_bytes)}")
    rows = ((topic.run, topic.kind, number(topic.events), size(topic.bytes)) for topic in found.topics[:LARGEST])
    print_table(table("run", "kind", "events", "bodies", rows=rows, right=("events", "bodies")), empty="It holds no event yet.")


@command.command()
@click.option("--thorough", is_flag=True, help="Also compare each index with its table; takes several times as long.")
@json_option
def check(thorough: bool, as_json: bool) -> int:
    """Check that the journal is whole, also while the broker writes it. Exit code 5 when it is not."""
    path = _file()
    with stderr().status("reading ..."):
        found = maintenance.faults(path, thorough=thorough)
    if as_json:
        print_json({"file": str(path), "ok": not found, "faults": found})
    elif found:
        for fault in found:
            stdout().print(Text(fault))
        hint = "Stop the bus and put a backup in its place; publishers send again what they still hold."
        raise JournalError(f"{path} is damaged.", hint=hint, file=str(path))
    else:
        click.echo(f"{path} is whole.")
    return 5 if found else 0


@command.command()
@click.argument("target", type=click.Path(path_type=Path), required=False)
@json_option
def backup(target: Path | None, as_json: bool) -> None:
    """Copy the journal to TARGET, also while the broker writes it: all that is committed at this moment.

    TARGET is a file, or a folder, in which the copy is named by date and time; by default HOME/backups. To restore: `trainbus down`, put
    the copy in the place of journal.db, remove journal.db-wal and journal.db-shm, `trainbus up`.
    """
    path = _file()
    chosen = target or path.parent / "backups"
    if target is None or target.is_dir():
        chosen = chosen / f"journal-{datetime.datetime.now():%Y%m%d-%H%M%S}.db"
    with stderr().status("copying ..."):
        written = maintenance.back_up(path, chosen)
    if as_json:
        print_json({"file": str(chosen), "bytes": written})
    else:
        click.echo(f"{chosen}: {size(written)}")


def _file() -> Path:
    path = home() / "journal.db"
    if not path.is_file():
        raise JournalError(f"There is no journal in {path.parent}.", hint="`trainbus up` makes one.", file=str(path))
    return path
