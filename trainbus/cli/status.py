"""``trainbus status``."""

from __future__ import annotations

import time
from typing import Any

import click
import msgspec
from rich.console import Group, RenderableType
from rich.live import Live

from trainbus.bus import wire
from trainbus.bus.client import Client
from trainbus.bus.home import home
from trainbus.bus.hosting.instance import Running, read_running
from trainbus.cli.memory_table import Watched, memory_document, newest, panel
from trainbus.cli.options import json_option
from trainbus.cli.output import print_json, stdout
from trainbus.cli.status_table import overview, without_broker
from trainbus.errors import RefusedError, UnreachableError

ANSWER_WITHIN = 3.0
"""Seconds: a status that takes longer says more by failing."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known. ``broker`` None: it doesn't answer, and ``running`` is the supervisor's account of it."""

    broker: wire.BrokerStatus | None
    runs: list[wire.RunInfo]
    plugins: list[wire.PluginStatus]
    running: Running | None
    memory: Watched | None = None


@click.command(name="status")
@click.option("--watch", "-w", is_flag=True, help="Keep the picture fresh until Ctrl-C.")
@click.option("--interval", default=1.0, show_default=True, help="Seconds between pictures of --watch.")
@json_option
def command(watch: bool, interval: float, as_json: bool) -> int:
    """Show broker, runs, publishers, plugins and memory.

    Exit codes: 0 all is well · 1 a plugin has failed or the broker is away while the supervisor lives · 3 nothing runs.
    """
    if watch and not as_json:
        return _watch(max(0.1, interval))
    snapshot = take()
    if as_json:
        print_json(as_document(snapshot))
    else:
        stdout().print(picture(snapshot))
    well = snapshot.broker is not None and all(plugin.state != "failed" for plugin in snapshot.plugins)
    return 0 if well else 1


def take() -> Snapshot:
    """Ask broker and supervisor.

    Raises:
        UnreachableError: Neither runs.
    """
    running = read_running(home())
    try:
        with Client(timeout=ANSWER_WITHIN) as client:
            broker = client.status()
            runs = client.runs()
            memory = newest(client, broker.head)
            try:
                plugins = msgspec.convert(client.supervise("plugins"), list[wire.PluginStatus])
            except RefusedError:  # a broker without a supervisor, or one that was restarted a moment ago
                plugins = running.plugins if running is not None else []
    except UnreachableError:
        if running is None:
            raise
        return Snapshot(broker=None, runs=[], plugins=running.plugins, running=running)
    return Snapshot(broker=broker, runs=runs, plugins=plugins, running=running, memory=memory)


def picture(snapshot: Snapshot) -> RenderableType:
    """The snapshot for people."""
    if snapshot.broker is not None:
        whole = overview(snapshot.broker, snapshot.runs, snapshot.plugins)
        watched = panel(snapshot.memory) if snapshot.memory is not None else None
        return whole if watched is None else Group(whole, watched)
    assert snapshot.running is not None, "take() gives one of the two"
    return without_broker(snapshot.running)


def as_document(snapshot: Snapshot) -> dict[str, Any]:
    """The snapshot for programs."""
    running = snapshot.running
    supervisor = running.pid if running is not None else snapshot.broker.supervisor if snapshot.broker is not None else None
    broker: dict[str, Any] | None = None
    if snapshot.broker is not None:
        broker = msgspec.to_builtins(snapshot.broker)
        del broker["sources"], broker["consumers"]
    return {
        "broker": broker,
        "supervisor": None if supervisor is None else {"pid": supervisor, "config": running.config if running is not None else ""},
        "plugins": snapshot.plugins,
        "runs": snapshot.runs,
        "memory": None if snapshot.memory is None else memory_document(snapshot.memory),
        "sources": snapshot.broker.sources if snapshot.broker is not None else [],
        "consumers": snapshot.broker.consumers if snapshot.broker is not None else [],
    }


def _watch(interval: float) -> int:
    with Live(picture(take()), console=stdout(), screen=False, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(interval)
                try:
                    live.update(picture(take()), refresh=True)
                except UnreachableError as error:
                    live.update(error.problem, refresh=True)
        except KeyboardInterrupt:
            return 0
