"""``trainbus watch``: a run in the terminal, live."""

from __future__ import annotations

import time

import click
from rich.live import Live

from trainbus.bus.client import Client
from trainbus.bus.subscriber import Subscriber
from trainbus.bus.wire import RunInfo
from trainbus.cli.history import known_run, last_events
from trainbus.cli.output import note, stdout
from trainbus.cli.watch_view import STEPS, WatchView
from trainbus.errors import RefusedError

OF_RUN = ("step", "phase", "run_ended", "eval", "checkpoint", "alert")
SHARED = ("system", "plugin", "alert")

OTHERS = 500
"""Events of machines and plugins, and alerts, that are looked back at."""

PAUSE = 0.25
"""Seconds between two pictures."""


@click.command(name="watch")
@click.argument("run", required=False)
@click.option("--once", is_flag=True, help="Print the present state once and end.")
def command(run: str | None, once: bool) -> None:
    """Watch RUN: status, loss curve, memory, alerts and plugins, live, until Ctrl+C.

    RUN is an id or its beginning; left out, it is the run that was heard of last. Where the output is no
    terminal, the present state is printed once.
    """
    console = stdout()
    with Client() as client:
        view = WatchView(known_run(client, run) if run else newest_run(client))
        head = client.status().head
        for kinds, runs, count in (
            (("step",), [view.info.run], STEPS),
            (tuple(kind for kind in OF_RUN if kind != "step"), [view.info.run], OTHERS),
            (SHARED, [""], OTHERS),
        ):
            for event in last_events(client, count, head, kinds=kinds, runs=runs):
                view.apply(event)
    if once or not console.is_terminal:
        console.print(view.render(console.width, console.height, time.time_ns()))
        return
    note("Ctrl+C ends watching; the run goes on.")
    kinds = (*OF_RUN, *SHARED)
    with Subscriber(kinds, [view.info.run, ""], start=head) as live, Live(console=console, auto_refresh=False, screen=True) as picture:
        while True:
            picture.update(view.render(console.width, console.height, time.time_ns()), refresh=True)
            end = time.monotonic() + PAUSE
            while (left := end - time.monotonic()) > 0:
                if (came := live.next(left)) is not None:
                    view.apply(came)


def newest_run(client: Client) -> RunInfo:
    """The run that was heard of last.

    Raises:
        RefusedError: There is none.
    """
    runs = client.runs()
    if not runs:
        raise RefusedError("The journal has no run yet.", hint="Start a training, or `trainbus demo`.", code="unknown")
    return max(runs, key=lambda info: info.updated)
