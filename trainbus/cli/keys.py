"""``trainbus keys``: who may come in, from where, and what they may do."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from urllib.parse import urlsplit

import click
import msgspec
from rich.text import Text

from trainbus.bus.broker import keystore
from trainbus.bus.broker.sockets import is_loopback
from trainbus.bus.client import Client
from trainbus.bus.config_file import load
from trainbus.bus.credentials import LOCAL, ROLES, VARIABLE, Role
from trainbus.bus.home import Connection, home, read_connection
from trainbus.cli.options import config_options, json_option, yes_option
from trainbus.cli.output import age, clock, note, print_json, print_table, state, stdout, table
from trainbus.errors import ConfigError, TrainbusError, UnreachableError

APPLIED_WITHIN = 15.0
"""Seconds that a running broker has to take over a change; it looks four times a second."""

POLL = 0.1
HOST = re.compile(r"[0-9A-Za-z._-]+")
DAY = 86_400.0


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A key without the key. ``state``: valid, revoked or expired."""

    name: str
    role: Role
    state: str
    created: int
    expires: int | None
    revoked: int | None


@click.group(name="keys")
def command() -> None:
    """Let other machines in: list, invite, revoke, rotate.

    The first invitation makes the broker's own keys. From then on nobody comes in without one; commands on this machine find theirs in
    HOME/keys by themselves. A running broker takes every change over at once, training goes on undisturbed.
    """
    # These commands are about the bus of this home, never about the one that a token names.
    os.environ.pop(VARIABLE, None)


@command.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """List all keys that were ever given out, and what became of them. Secret keys are not among what is kept here."""
    book = keystore.read_book(home())
    now = time.time_ns()
    entries = [_entry(client, now) for client in book.clients] if book is not None else []
    if as_json:
        print_json(entries)
        return
    rows = (
        (entry.name, entry.role, _state(entry), age(entry.created), clock(entry.expires) if entry.expires is not None else None)
        for entry in entries
    )
    print_table(
        table("name", "role", "state", "made", "expires", rows=rows),
        empty="No keys: the broker listens on this machine only. `trainbus keys invite NAME --role observer` makes the first.",
    )


@command.command()
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What the key lets its holder do.")
@click.option("--host", metavar="ADDRESS", help="Name or address under which the other machine reaches this one.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="The key expires after so many days.")
@config_options
@json_option
def invite(
    name: str, role: Role, host: str | None, days: float | None, config_path: Path | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Make a key for NAME and print its token: one line that is all the other machine needs. It is shown only now.

    observer looks on · publisher also publishes (a training process) · operator also steers runs · admin may do everything.
    """
    root = home()
    running = _running(root)
    settings = load(config_path, overrides=overrides).config.bus
    address = _address(host, settings.bind, running)
    ports: tuple[int, int] | None = None
    if running is not None and running.server_key:
        ports = urlsplit(running.router).port or 0, urlsplit(running.xpub).port or 0
    elif settings.router_port and settings.xpub_port:
        ports = settings.router_port, settings.xpub_port
    credentials, book = keystore.invite(root, name, role, address, ports=ports, valid_for=days * DAY if days is not None else None)
    applied = _applied(root, book.revision)
    if as_json:
        facts = {"name": name, "role": role, "router": credentials.router, "xpub": credentials.xpub}
        print_json({**facts, "token": credentials.token(), "applied": applied})
        return
    click.echo(credentials.token())
    note(f"This is the token of {name} ({role}) for {credentials.router} and {credentials.xpub}. Whoever has it is {name}.")
    note("On the other machine: `trainbus attach web TOKEN`, or TRAINBUS_TOKEN=TOKEN before any command or training.")
    if is_loopback(address):
        note(
            f"{address} is this machine itself: the token works here and through an ssh tunnel. For other machines: "
            "`trainbus up --bind ADDRESS`, and `trainbus keys invite NAME --role ROLE --host ADDRESS`."
        )


@command.command()
@click.argument("name")
@json_option
def revoke(name: str, as_json: bool) -> None:
    """Take a key out of use. Its connections are closed before this returns."""
    root = home()
    book = keystore.revoke(root, name)
    applied = _applied(root, book.revision)
    if as_json:
        print_json({"revoked": name, "applied": applied})
        return
    stdout().print(f"{name} is revoked{' and shut out' if applied else '; no broker runs'}.")


@command.command()
@yes_option
@json_option
def rotate(yes: bool, as_json: bool) -> None:
    """Renew the broker's own keys and those of this machine. Every token is void then: invite everybody anew."""
    root = home()
    book = keystore.read_book(root)
    names = [client.name for client in book.clients if client.valid(time.time_ns()) and client.name != LOCAL] if book is not None else []
    if names and not yes:
        click.confirm(f"Shut out {', '.join(names)} and renew the keys?", abort=True, err=True)
    applied = _applied(root, keystore.rotate(root).revision)
    if as_json:
        print_json({"void": names, "applied": applied})
        return
    stdout().print(f"Renewed. Void: {', '.join(names) or 'none'}.")


def _entry(client: keystore.Client, now: int) -> Entry:
    word = "valid" if client.valid(now) else "revoked" if client.revoked is not None else "expired"
    return Entry(name=client.name, role=client.role, state=word, created=client.created, expires=client.expires, revoked=client.revoked)


def _state(entry: Entry) -> Text:
    return state("ok") if entry.state == "valid" else Text(entry.state, style="dim")


def _running(root: Path) -> Connection | None:
    try:
        return read_connection(root)
    except UnreachableError:
        return None


def _address(host: str | None, bind: str, running: Connection | None) -> str:
    """What the token names: what was asked for, or where the broker listens."""
    if host is not None:
        if not HOST.fullmatch(host):
            raise ConfigError(
                f"--host {host!r} is no host.", hint="Give a name or an IPv4 address alone, without tcp:// and port.", found=host
            )
        return host
    at = urlsplit(running.router).hostname if running is not None else None
    if at is not None and not is_loopback(at):
        return at
    if bind == "0.0.0.0":
        hint = "Add --host with the name or address under which the other machine reaches this one."
        raise ConfigError("The broker listens on all addresses, and a token has to name one.", hint=hint, key="host")
    return "127.0.0.1" if bind == "localhost" else bind


def _applied(root: Path, revision: int) -> bool:
    """Wait until the running broker goes by this revision of its book. False: none runs.

    Raises:
        TrainbusError: It runs and does not.
    """
    deadline = time.monotonic() + APPLIED_WITHIN
    while True:
        try:
            with Client(root=root, timeout=2.0) as client:
                keys = client.status().keys
            if keys is not None and keys.revision >= revision:
                return True
        except UnreachableError as error:
            if not error.facts.get("alive"):
                return False
        if time.monotonic() > deadline:
            hint = "Is it stopped or overloaded? See `trainbus status` and its log. It goes by the new keys as soon as it works again."
            raise TrainbusError(f"The change is made, but the broker has not taken it over within {APPLIED_WITHIN:.0f} s.", hint=hint)
        time.sleep(POLL)
