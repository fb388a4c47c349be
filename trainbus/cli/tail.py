"""``trainbus tail``: events as text or JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click

from trainbus.bus.client import Client
from trainbus.bus.events import BY_KIND, AnyEvent
from trainbus.bus.subscriber import Subscriber
from trainbus.cli.app import UsageError
from trainbus.cli.history import known_runs, last_events, offset_before, parse_since
from trainbus.cli.options import json_option, kind_option, run_option
from trainbus.cli.output import json_line, note, stdout
from trainbus.cli.render import line
from trainbus.cli.schema import kind_hint

LAST = 20
"""Events shown when nobody says how many."""


@click.command(name="tail")
@run_option
@kind_option
@click.option("--last", "-n", type=click.IntRange(min=0), help=f"Only the last N matching events.  [default: {LAST}]")
@click.option("--since", metavar="WHEN", help="From a time on: 10m, 2h, 3d (ago), or 2026-05-01T12:30.")
@click.option("--follow", "-f", is_flag=True, help="Go on with new events until interrupted.")
@json_option
def command(runs: tuple[str, ...], kinds: tuple[str, ...], last: int | None, since: str | None, follow: bool, as_json: bool) -> None:
    """Print the last events, and with --follow those that come.

    Text has one line for each event; --json one JSON object for each. Events appear in the order of the
    journal. Heartbeats come only when asked for by --kind heartbeat, and only with --follow.
    """
    if last is not None and since is not None:
        raise UsageError("--last and --since exclude each other.", hint="Use one of them.")
    for kind in kinds:
        remark_unknown(kind)
    moment = parse_since(since) if since is not None else None
    show = shower(as_json)
    with Client() as client:
        ids = known_runs(client, runs)
        head = client.status().head
        if moment is None:
            events: Iterable[AnyEvent] = last_events(client, LAST if last is None else last, head, kinds=kinds, runs=ids)
        else:
            later = client.events(kinds=kinds, runs=ids, after=offset_before(client, moment, head), upto=head)
            events = (event for event in later if event.time >= moment)
        for event in events:
            show(event)
    if follow:
        # From the head that the part above ended at: what came in the meantime is in the journal, so there is no seam.
        with Subscriber(kinds, ids, start=head) as live:
            for event in live:
                show(event)


def remark_unknown(kind: str) -> None:
    """Remark on a kind that this version doesn't know: most likely a typing mistake, perhaps a later version's."""
    if kind not in BY_KIND:
        note(f"`{kind}` is no kind that this version knows. {kind_hint(kind)}")


def shower(as_json: bool) -> Callable[[AnyEvent], None]:
    """What prints an event: a line of text or of JSON, at once."""
    if as_json:
        return lambda event: click.echo(json_line(event))
    console = stdout()
    return lambda event: console.print(line(event), soft_wrap=True)
