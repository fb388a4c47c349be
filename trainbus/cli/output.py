"""What commands print: one look for tables, figures, progress, JSON and errors.

Results go to stdout, everything else (errors, notes, progress) to stderr. Colours and bars disappear by themselves with NO_COLOR,
TERM=dumb or a pipe.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import msgspec
from rich import box
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from trainbus.bus.jsonable import to_json
from trainbus.errors import TrainbusError

PIPE_WIDTH = 200
"""Columns where nobody tells: wide enough that a table in a pipe or a log isn't cut."""

NOTHING = "-"
"""Stands where there is no value."""

STATE_STYLES = {
    "ok": "green", "running": "green", "completed": "green", "complete": "green", "done": "green", "cleared": "green",
    "accepted": "cyan", "starting": "cyan", "writing": "cyan", "queued": "cyan", "processing": "cyan", "info": "cyan",
    "stopped": "dim", "deleted": "dim", "skipped": "dim",
    "warn": "yellow", "warning": "yellow", "stuck": "yellow", "medium": "yellow", "raised": "yellow", "updated": "yellow",
    "fail": "bold red", "failed": "bold red", "lost": "bold red", "critical": "bold red",
    "refused": "bold red", "high": "bold red", "dead": "bold red",
}  # fmt: skip


FOR_PROGRAMS = frozenset({"code", "alive", "waited", "exception", "errno"})
"""Facts of errors that --json tells and that would only puzzle people."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave the decision to `trainbus.cli.app`: rich would exit with 1."""
        raise BrokenPipeError


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    told = os.environ.get("COLUMNS", "")
    width = PIPE_WIDTH if not stream.isatty() and not told.isdigit() else None
    return _Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def stdout() -> Console:
    """The console for results. Made anew for each call: streams may be replaced under us."""
    return _console(stderr=False)


def stderr() -> Console:
    """The console for errors, notes and progress."""
    return _console(stderr=True)


def note(message: str) -> None:
    """A remark that is no part of the result."""
    stderr().print(Text(message, style="dim"))


def table(
    *columns: str, rows: Iterable[Iterable[RenderableType | None]] = (), title: str | None = None, right: Iterable[str] = ()
) -> Table:
    """A table in the one look that all commands share.

    Args:
        columns: The headings.
        rows: Cells; None shows as a dash.
        title: Stands above the table.
        right: The headings of the columns with figures, which are set flush right.
    """
    figures = set(right)
    made = Table(
        box=box.SIMPLE_HEAD, header_style="bold", title=title, title_justify="left", title_style="bold", pad_edge=False, show_edge=False
    )
    for column in columns:
        made.add_column(column, justify="right" if column in figures else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(NOTHING, style="dim") if cell is None else Text(cell) if isinstance(cell, str) else cell for cell in row))
    return made


def print_table(made: Table, *, empty: str) -> None:
    """A table on stdout; when it has no rows, the sentence ``empty`` in its place."""
    stdout().print(made if made.row_count else Text(empty, style="dim"))


def state(word: str) -> Text:
    """A state, severity or outcome in its colour."""
    return Text(word, style=STATE_STYLES.get(word, ""))


def duration(seconds: float | None) -> str:
    """``0.5`` → ``500 ms``, ``75`` → ``1 min 15 s``, ``90000`` → ``1 d 1 h``; two units at most."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, smaller, small_size in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // small_size
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def size(number: float | None) -> str:
    """Bytes in binary units: ``1536`` → ``1.5 KiB``."""
    if number is None:
        return NOTHING
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def number(value: float | None) -> str:
    """A metric or a count, short: ``1234567`` → ``1,234,567``, ``0.00012345`` → ``0.0001234``; NaN and infinities by name."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")
    return f"{value:,.4g}" if abs(value) < 1e6 else f"{value:.4g}"


def age(nanoseconds: int, now: int | None = None) -> str:
    """How long ago a wall-clock stamp is; ``now`` is ns since the epoch, by default the clock's."""
    if nanoseconds <= 0:
        return NOTHING
    return f"{duration(((time.time_ns() if now is None else now) - nanoseconds) / 1e9)} ago"


def clock(nanoseconds: int) -> str:
    """A wall-clock stamp as local time with milliseconds; with the date when that is not today."""
    moment = time.localtime(nanoseconds // 1_000_000_000)
    pattern = "%H:%M:%S" if time.strftime("%F", moment) == time.strftime("%F") else "%F %H:%M:%S"
    return f"{time.strftime(pattern, moment)}.{nanoseconds // 1_000_000 % 1000:03d}"


@contextmanager
def progress(description: str, total: float | None = None) -> Iterator[Progress]:
    """A progress bar on stderr for what takes more than two seconds; call ``advance(task_ids[0], n)`` on what it gives.

    Nothing is drawn when stderr is no terminal.
    """
    console = stderr()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        bar.add_task(description, total=total)
        yield bar


def json_line(value: Any) -> str:
    """One line of JSON, always valid, see `trainbus.bus.jsonable`."""
    return to_json(value).decode()


def print_json(value: Any) -> None:
    """A JSON document on stdout: indented for people, one line in a pipe."""
    line = json_line(value)
    click.echo(msgspec.json.format(line, indent=2) if sys.stdout.isatty() else line)


def print_error(error: TrainbusError, *, as_json: bool = False) -> None:
    """An error: what is wrong, what to do, then the facts that neither sentence names. With ``as_json``, a document on stdout."""
    if as_json:
        print_json({"error": {"code": error.code, "problem": error.problem, "hint": error.hint, **error.facts}})
        return
    console = stderr()
    wrap = not console.is_terminal  # in a pipe or a log a sentence stays one line, for grep and for `up --detach`, which reads it
    console.print(Text.assemble(("error: ", "bold red"), error.problem), soft_wrap=wrap)
    if error.hint:
        console.print(Text.assemble(("hint:  ", "bold cyan"), error.hint), soft_wrap=wrap)
    said = f"{error.problem} {error.hint}"
    for name, value in error.facts.items():
        if name not in FOR_PROGRAMS and isinstance(value, str | int | float) and str(value) and str(value) not in said:
            console.print(Text(f"       {name}: {value}", style="dim"), soft_wrap=wrap)
