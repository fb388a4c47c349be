"""``trainbus spool``: events of publishers that are no more."""

from __future__ import annotations

import click
from rich.text import Text

from trainbus.bus.drain import DrainReport, SpoolInfo, drain_orphans, spools
from trainbus.cli.options import json_option
from trainbus.cli.output import age, note, number, print_json, print_table, size, state, stderr, stdout, table


@click.group(name="spool")
def command() -> None:
    """What publishers have on disk: events that the broker hasn't acknowledged."""


@command.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """List the spools of this machine, those of dead publishers included."""
    found = spools()
    if as_json:
        print_json(found)
        return
    rows = (
        (info.run or "?", state(_state(info)), number(info.waiting), size(info.bytes), age(info.created), f"{info.host}:{info.pid}")
        for info in found
    )
    made = table("run", "state", "waiting", "size", "made", "process", rows=rows, right=("waiting", "size"))
    print_table(made, empty="No publisher has anything on disk.")
    for info in found:
        if info.problem:
            note(f"{info.path}: {info.problem}")


def _state(info: SpoolInfo) -> str:
    return "failed" if info.problem else "running" if info.held else "dead"


@command.command()
@json_option
def drain(as_json: bool) -> int:
    """Send what dead publishers left, and remove what is acknowledged. Exit code 5 when some could not be sent."""
    console = stderr()
    with console.status("sending ...") as status:

        def tell(report: DrainReport) -> None:
            status.update(Text(f"{report.run}: {report.acknowledged} of {report.published}"))

        reports = drain_orphans(progress=None if as_json or not console.is_terminal else tell)
    if as_json:
        print_json(reports)
    else:
        for report in reports:
            word = state("done" if report.done else "failed")
            line = Text.assemble(
                f"{report.run or report.source}  ", word, f"  {report.acknowledged} of {report.published} events  {report.problem}"
            )
            stdout().print(line)
        if not reports:
            click.echo("Nothing was left behind.")
    return 0 if all(report.done for report in reports) else 5
