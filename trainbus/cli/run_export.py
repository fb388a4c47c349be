"""``trainbus runs export``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import click

from trainbus.bus.client import Client
from trainbus.bus.events import AnyEvent
from trainbus.bus.export import FORMATS, Format, write, write_lines
from trainbus.cli.app import UsageError
from trainbus.cli.history import known_run, offset_before, parse_since
from trainbus.cli.options import json_option, kind_option
from trainbus.cli.output import note, number, print_json, progress, size

PASSES = {"jsonl": 1, "csv": 2, "parquet": 2}
"""How often a format reads the events."""


@click.command(name="export")
@click.argument("run")
@click.option("--format", "form", type=click.Choice(FORMATS), help="By default the ending of FILE decides, else jsonl.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Where to. By default stdout (jsonl only)."
)
@click.option("--force", is_flag=True, help="Overwrite FILE when it exists.")
@kind_option
@click.option("--since", metavar="TIME", help="Only events from TIME on: 10m, 2h, 3d (ago), or an ISO date and time.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many events, the first ones.")
@json_option
def export_command(
    run: str,
    form: Format | None,
    output: Path | None,
    force: bool,
    kinds: tuple[str, ...],
    since: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Write a run's events to a file: JSONL, CSV or Parquet.

    JSONL holds everything. CSV and Parquet have one row for each event and one column for each field, metrics.loss for
    example. What comes while the export runs is left for the next one. --json prints what was written, and needs --output.
    """
    chosen = form or _by_ending(output)
    _check(output, chosen, force, as_json)
    begin = None if since is None else parse_since(since)
    with Client() as client:
        info = known_run(client, run)
        head = client.status().head
        after = -1 if begin is None else offset_before(client, begin, head)
        with progress(f"exporting {info.run}", total=info.events * PASSES[chosen]) as bar:

            def read() -> Iterator[AnyEvent]:
                for event in islice(client.events(runs=[info.run], kinds=kinds, after=after, upto=head), limit):
                    bar.advance(bar.task_ids[0])
                    yield event

            if output is None:
                write_lines(read(), sys.stdout.buffer)
                return
            try:
                count = write(read, output, chosen)
            except OSError as error:
                raise UsageError(f"{output} can't be written: {error.strerror}.", hint="Name another FILE.", file=str(output)) from error
    weight = output.stat().st_size
    if as_json:
        print_json({"run": info.run, "file": str(output), "format": chosen, "events": count, "bytes": weight})
    else:
        note(f"{output}: {number(count)} events, {size(weight)}")


def _by_ending(output: Path | None) -> Format:
    ending = output.suffix.removeprefix(".") if output else ""
    return next((form for form in FORMATS if form == ending), "jsonl")


def _check(output: Path | None, form: Format, force: bool, as_json: bool) -> None:
    if output is None and form != "jsonl":
        raise UsageError(f"{form} needs a file.", hint="Name it with -o FILE.")
    if output is None and as_json:
        raise UsageError("--json needs a file to export to.", hint="Name it with -o FILE, or leave --json out: jsonl on stdout is JSON.")
    if output is not None and output.exists() and not force:
        raise UsageError(f"{output} is there already.", hint="Overwrite it with --force, or name another FILE.", file=str(output))
