"""``trainbus schema``: JSON Schema for those who read events as JSON."""

from __future__ import annotations

import difflib

import click

from trainbus.bus.events import BY_KIND
from trainbus.bus.schema import all_schemas, event_schema
from trainbus.cli.app import UsageError
from trainbus.cli.output import print_json


@click.command(name="schema")
@click.argument("kind", required=False)
def command(kind: str | None) -> None:
    """Print the JSON Schema (draft 2020-12) of events of KIND, or of all events."""
    if kind is None:
        print_json(all_schemas())
    elif kind in BY_KIND:
        print_json(event_schema(kind))
    else:
        raise UsageError(f"There is no kind of event `{kind}`.", hint=kind_hint(kind), found=kind, allowed=list(BY_KIND))


def kind_hint(kind: str) -> str:
    """The kind that was probably meant, or all."""
    near = difflib.get_close_matches(kind, BY_KIND, n=1)
    return f"Did you mean `{near[0]}`?" if near else f"Kinds: {', '.join(BY_KIND)}."
