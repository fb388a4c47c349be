"""``trainbus replay``: a run's events again, in the rhythm in which they came."""

from __future__ import annotations

import time

import click

from trainbus.bus.client import Client
from trainbus.cli.history import known_run
from trainbus.cli.options import json_option, kind_option
from trainbus.cli.tail import remark_unknown, shower

LONGEST_PAUSE = 5.0
"""Seconds: nobody wants to watch a night in which nothing happened."""


@click.command(name="replay")
@click.argument("run")
@kind_option
@click.option(
    "--speed", type=click.FloatRange(min=0), default=0.0, show_default="no pauses", help="1: as it was, 60: a minute in a second."
)
@json_option
def command(run: str, kinds: tuple[str, ...], speed: float, as_json: bool) -> None:
    """Print the events of RUN from its beginning, with --speed in their rhythm.

    It reads the journal and publishes nothing. Pauses are at most 5 seconds long.
    """
    for kind in kinds:
        remark_unknown(kind)
    show = shower(as_json)
    previous: int | None = None
    with Client() as client:
        for event in client.events(runs=[known_run(client, run).run], kinds=kinds):
            if speed and previous is not None:
                time.sleep(min(max(event.time - previous, 0) / 1e9 / speed, LONGEST_PAUSE))
            previous = event.time
            show(event)
