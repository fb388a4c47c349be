"""``trainbus cursors``: durable consumers, their lag and their dead letters."""

from __future__ import annotations

import difflib

import click

from trainbus.bus.client import Client
from trainbus.bus.wire import Cursor
from trainbus.cli.options import json_option, yes_option
from trainbus.cli.output import age, number, print_json, print_table, table
from trainbus.errors import RefusedError


@click.group(name="cursors")
def command() -> None:
    """Durable consumers: where each stands, what it put aside. A plugin's consumer bears its name."""


@command.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """List all consumers."""
    with Client() as client:
        found = client.consumers()
    if as_json:
        print_json([_plain(cursor) for cursor in found])
        return
    rows = (
        (cursor.consumer, number(cursor.offset), number(lag(cursor)), number(cursor.dead_letters), age(cursor.updated)) for cursor in found
    )
    made = table("consumer", "offset", "lag", "dead letters", "moved", rows=rows, right=("offset", "lag", "dead letters"))
    print_table(made, empty="There is no consumer yet.")


def lag(cursor: Cursor) -> int:
    """Offsets (of all kinds) between the cursor and the journal's head."""
    return max(cursor.head - cursor.offset, 0)


def _plain(cursor: Cursor) -> dict[str, object]:
    facts = ("consumer", "offset", "head", "journal", "dead_letters", "updated")
    return {**{fact: getattr(cursor, fact) for fact in facts}, "lag": lag(cursor)}


@command.command()
@click.argument("consumer")
@click.option(
    "--to", "offset", type=click.IntRange(min=-1), default=-1, show_default="the beginning", help="The last offset that counts as done."
)
@yes_option
@json_option
def reset(consumer: str, offset: int, yes: bool, as_json: bool) -> None:
    """Set a cursor anywhere, so that a plugin sees events again or passes over some. Stop the plugin first."""
    with Client() as client:
        known = _known(client, consumer)
        if not yes:
            click.confirm(f"Move {consumer} from offset {known.offset} to {offset}?", abort=True, err=True)
        cursor = client.reset_cursor(consumer, offset)
    if as_json:
        print_json(_plain(cursor))
    else:
        click.echo(f"{consumer} stands at offset {cursor.offset}; {lag(cursor)} to go.")


@command.command()
@click.argument("consumer")
@yes_option
@json_option
def drop(consumer: str, yes: bool, as_json: bool) -> None:
    """Forget a consumer: its cursor, its state, its dead letters."""
    with Client() as client:
        _known(client, consumer)
        if not yes:
            click.confirm(f"Forget {consumer} with its state and dead letters?", abort=True, err=True)
        client.drop_cursor(consumer)
    if as_json:
        print_json({"dropped": consumer})
    else:
        click.echo(f"{consumer} is forgotten.")


@command.command(name="dead-letters")
@click.argument("consumer", required=False, default="")
@json_option
def dead_letters(consumer: str, as_json: bool) -> None:
    """List events that were put aside because a consumer died on them."""
    with Client() as client:
        if consumer:
            _known(client, consumer)
        found = client.dead_letters(consumer)
    if as_json:
        print_json(found)
        return
    rows = ((letter.consumer, number(letter.offset), number(letter.attempts), age(letter.time), letter.reason) for letter in found)
    made = table("consumer", "offset", "attempts", "when", "reason", rows=rows, right=("offset", "attempts"))
    print_table(made, empty="Nothing was put aside.")


def _known(client: Client, consumer: str) -> Cursor:
    cursors = {cursor.consumer: cursor for cursor in client.consumers()}
    if consumer in cursors:
        return cursors[consumer]
    near = difflib.get_close_matches(consumer, cursors, n=1)
    hint = f"Did you mean `{near[0]}`?" if near else "`trainbus cursors list` shows which there are."
    raise RefusedError(f"The journal knows no consumer {consumer!r}.", hint=hint, code="unknown", consumer=consumer)
