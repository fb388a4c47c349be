"""``trainbus reload``."""

from __future__ import annotations

import click
from rich.text import Text

from trainbus.bus.client import Client
from trainbus.cli.options import json_option
from trainbus.cli.output import print_json, stdout

ANSWER_WITHIN = 120.0
"""Seconds: plugins that are in a hook are let finish before they are started with their new settings."""


@click.command(name="reload")
@json_option
def command(as_json: bool) -> int:
    """Read trainbus.toml again and apply what changed.

    Plugins are added, removed or started anew; those whose settings did not change go on undisturbed. A file with a mistake changes
    nothing.
    """
    with Client(timeout=ANSWER_WITHIN) as client:
        answer: dict[str, list[str]] = client.supervise("reload")
    if as_json:
        print_json(answer)
        return 1 if answer["failed"] else 0
    console = stdout()
    for what in ("added", "removed", "restarted", "unchanged"):
        if answer[what]:
            console.print(f"{what}: {', '.join(answer[what])}")
    if answer["needs_up"]:
        console.print(Text(f"not applied until the next `trainbus up`: {', '.join(answer['needs_up'])}", style="yellow"))
    if answer["failed"]:
        console.print(Text(f"failed: {', '.join(answer['failed'])} (`trainbus status` says why)", style="bold red"))
    return 1 if answer["failed"] else 0
