"""``trainbus logs``: what broker, plugins, supervisor and commands have printed, over rotated files."""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path

import click
import msgspec

from trainbus.bus.home import home
from trainbus.bus.hosting.kept import following, last_lines
from trainbus.bus.hosting.rotation import parts
from trainbus.cli.app import UsageError
from trainbus.cli.options import json_option
from trainbus.cli.output import age, note, number, print_json, print_table, size, table
from trainbus.errors import RefusedError

LAST = 50
"""Lines shown when nobody says how many."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f]")
"""Except tab and the escape that begins a colour: what a child printed must not ring bells."""


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """One log: ``run`` is set for the output of a command."""

    name: str
    path: str
    bytes: int
    files: int
    written: int
    run: str = ""


@click.command(name="logs")
@click.option("--last", "-n", type=click.IntRange(min=0), default=LAST, show_default=True, help="Only the last N lines.")
@click.option("--all", "everything", is_flag=True, help="All lines that are kept.")
@click.option("--follow", "-f", is_flag=True, help="Go on with new lines until interrupted, through rotations.")
@json_option
@click.argument("name", required=False)
def command(last: int, everything: bool, follow: bool, as_json: bool, name: str | None) -> None:
    """Show a log, or without NAME which there are.

    NAME is `broker`, `trainbus` (the supervisor), a plugin, or the run of a command under `trainbus exec` (its id or the beginning of it).
    """
    found = logs(home())
    if name is None:
        if follow:
            raise UsageError("--follow needs the NAME of one log.", hint="`trainbus logs` lists them.")
        _list(found, as_json=as_json)
        return
    if as_json:
        raise UsageError("--json goes with the list of logs, not with one.", hint="Leave NAME or --json out.")
    path = Path(_chosen(found, name).path)
    lines, newest = last_lines(path, sys.maxsize if everything else last)
    for line in lines:
        click.echo(_text(line))
    if follow:
        for line in following(path, newest, lost=lambda: note("Lines were rotated away before they could be shown.")):
            click.echo(_text(line))
    elif newest is not None:
        for line in newest:  # the last one, when nothing ends it
            click.echo(_text(line))
        newest.close()


def logs(root: Path) -> list[Log]:
    """The logs of a home: those of broker, supervisor and plugins first, then those of commands, the newest first."""
    found = [_log(path, run) for pattern, run in (("logs/*.log", False), ("logs/exec/*.log", True)) for path in sorted(root.glob(pattern))]
    return sorted(found, key=lambda log: (bool(log.run), -log.written if log.run else 0, log.name))


def _log(path: Path, run: bool) -> Log:
    status = [part.stat() for part in parts(path)]
    written = max((one.st_mtime_ns for one in status), default=0)
    name = path.name.removesuffix(".log")
    return Log(
        name=name, path=str(path), bytes=sum(one.st_size for one in status), files=len(status), written=written, run=name if run else ""
    )


def _list(found: list[Log], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    rows = ((log.name, "command" if log.run else "", size(log.bytes), number(log.files), age(log.written)) for log in found)
    print_table(table("log", "of", "size", "files", "written", rows=rows, right=("size", "files")), empty="Nothing has been kept yet.")
    note("`trainbus logs NAME` shows one.")


def _chosen(found: list[Log], name: str) -> Log:
    exact = [log for log in found if log.name == name]
    begun = [log for log in found if log.run.startswith(name)]
    if exact or len(begun) == 1:
        return (exact or begun)[0]
    if begun:
        several = ", ".join(log.name for log in begun[:5])
        raise RefusedError(f"{len(begun)} logs begin with {name!r}: {several}.", hint="Write more of the name.", code="unknown", name=name)
    near = difflib.get_close_matches(name, [log.name for log in found], n=1)
    hint = f"Did you mean `{near[0]}`?" if near else "`trainbus logs` lists what there is."
    raise RefusedError(f"There is no log {name!r}.", hint=hint, code="unknown", name=name)


def _text(line: bytes) -> str:
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", line.decode("utf-8", "replace").rstrip("\r\n"))
