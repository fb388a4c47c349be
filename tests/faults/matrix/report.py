"""The table: what the rounds of each row found."""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from pathlib import Path

import msgspec

from tests.conftest import ROOT
from tests.faults.board import LATE_SECONDS
from tests.faults.matrix.row import ROWS, Round, Row
from trainbus.version import __version__

PAGE = ROOT / "docs" / "faults.md"
BLOCK = re.compile(r"<!-- results -->.*?<!-- end -->", re.DOTALL)
COLUMNS = (
    "row", "what breaks", "rounds", "published", "journaled", "delivered", "lost", "twice", "out of order", "with a gap event",
    "longest call, ms", "beside it, ms", "added, ms", "recovery, s", "",
)  # fmt: skip


class Line(msgspec.Struct, kw_only=True):
    """A row of the table. Times are milliseconds, but ``recovery`` (median, longest), which is seconds.

    ``added``: by how much the longest uninterrupted call of publish() was longer than the longest one of the control process; the largest
    and the median over the rounds. ``late``: uninterrupted calls above a millisecond, and ``control_late`` the control process's.
    """

    name: str
    title: str
    clauses: str
    rounds: int
    broken: int
    skipped: int
    why_skipped: str
    published: int
    journaled: int
    delivered: int
    lost: int
    duplicated: int
    disordered: int
    wrong: int
    explained: int
    longest: float
    control: float
    added: float
    added_median: float
    late: int
    control_late: int
    waited: int | None = None
    recovery: tuple[float, float] | None
    seconds: float
    problems: list[str]


class Matrix(msgspec.Struct, kw_only=True):
    """All lines, and where and when they were found."""

    lines: list[Line]
    seed: int
    rounds: list[Round]
    measured: str
    machine: str
    load: tuple[float, float]
    """Smallest and largest load average at the start of a round."""

    @property
    def broken(self) -> int:
        """Rounds in which a promise was broken."""
        return sum(line.broken for line in self.lines)

    @property
    def late(self) -> int:
        """Rows in which some training step became more than a millisecond longer."""
        return sum(line.added > LATE_SECONDS * 1e3 for line in self.lines)


def matrix(rows: list[Row], rounds: list[Round], seed: int) -> Matrix:
    """Put the rounds together."""
    lines = [line(row, found) for row in rows if (found := [one for one in rounds if one.row == row.name])]
    loads = [one.load for one in rounds] or [0.0]
    machine = f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}, trainbus {__version__}"
    measured = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return Matrix(lines=lines, seed=seed, rounds=rounds, measured=measured, machine=machine, load=(min(loads), max(loads)))


def line(row: Row, rounds: list[Round]) -> Line:
    """One row's rounds as one line."""
    played = [one for one in rounds if not one.skipped]
    recoveries = [one.recovery for one in played if one.recovery is not None]
    added = [max(0.0, one.own - one.control_own) * 1e3 for one in played] or [0.0]

    def total(column: str) -> int:
        return sum(getattr(one, column) for one in played)

    counts = ("published", "journaled", "delivered", "lost", "duplicated", "disordered", "wrong", "explained", "late", "control_late")
    return Line(
        name=row.name,
        title=row.title,
        clauses=row.clauses,
        rounds=len(played),
        broken=sum(bool(one.problem) for one in played),
        skipped=len(rounds) - len(played),
        why_skipped=next((one.skipped for one in rounds if one.skipped), ""),
        **{column: total(column) for column in counts},
        waited=None if any(one.waited is None for one in played) else sum(one.waited or 0 for one in played),
        longest=max((one.longest * 1e3 for one in played), default=0.0),
        control=max((one.control * 1e3 for one in played), default=0.0),
        added=max(added),
        added_median=statistics.median(added),
        recovery=(statistics.median(recoveries), max(recoveries)) if recoveries else None,
        seconds=sum(one.seconds for one in rounds),
        problems=[one.problem for one in played if one.problem],
    )


def save(found: Matrix, path: Path) -> None:
    """As JSON, every round included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")


def cells(one: Line) -> list[str]:
    """A line as text."""
    recovery = f"{one.recovery[0]:.1f} to {one.recovery[1]:.1f}" if one.recovery else ""
    wrong = f"{one.wrong} wrong" if one.wrong else ""
    verdict = f"BROKEN {one.broken}" if one.broken else f"skipped: {one.why_skipped}" if not one.rounds else wrong or "kept"
    return [
        f"`{one.name}`", one.title, str(one.rounds), f"{one.published:,}", f"{one.journaled:,}", f"{one.delivered:,}", str(one.lost),
        str(one.duplicated), str(one.disordered), str(one.explained), f"{one.longest:.2f}", f"{one.control:.2f}",
        f"{one.added:.2f} ({one.added_median:.2f})", recovery, verdict,
    ]  # fmt: skip


def table(found: Matrix) -> str:
    """Markdown, aligned for the terminal."""
    rows = [list(COLUMNS), *map(cells, found.lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    text = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def summary(found: Matrix) -> str:
    """One sentence, and the rounds that broke something."""
    rounds, published = sum(line.rounds for line in found.lines), sum(line.published for line in found.lines)
    said = f"{rounds} rounds of {len(found.lines)} rows, {published:,} events published: "
    said += f"{found.broken} rounds broke a promise." if found.broken else "every promise was kept."
    calls, beside = sum(line.late for line in found.lines), sum(line.control_late for line in found.lines)
    said += f" Calls of publish() that took more than 1 ms without being interrupted: {calls}"
    if all(line.waited is not None for line in found.lines):
        said += f", of which {sum(line.waited or 0 for line in found.lines)} waited for a lock, the interpreter or a page"
    said += f"; of the control process: {beside}."
    return said + f" Load average {found.load[0]:.1f} to {found.load[1]:.1f}."


def text(found: Matrix) -> str:
    """For the terminal."""
    return f"{table(found)}\n\n{summary(found)}"


def write_docs(path: Path) -> None:
    """Put what was played last into the page that quotes it."""
    found = msgspec.json.decode(path.read_bytes(), type=Matrix)
    notes = [f"- `{one.name}`: {ROWS[one.name].note}." for one in found.lines if one.name in ROWS and ROWS[one.name].note]
    parts = [f"{found.measured}, {found.machine}, seed {found.seed}.", summary(found), table(found), "\n".join(notes)]
    block = "\n\n".join(["<!-- results -->", *filter(None, parts), "<!-- end -->"])
    PAGE.write_text(BLOCK.sub(lambda _: block, PAGE.read_text()))
