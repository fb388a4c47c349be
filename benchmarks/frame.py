"""What a benchmark gives back, and how it is printed: tables, and bars with the ratio of what was measured to what is allowed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trainbus.version import __version__

RESULTS = Path(__file__).parent / "results"


class Table(msgspec.Struct):
    """A table of the report; numbers are rounded for people, ``Result.data`` has them in full."""

    title: str
    columns: list[str]
    rows: list[list[str | float | int]]


class Bar(msgspec.Struct):
    """A number to hold. ``at_most``: the limit is an upper one, else a lower one."""

    what: str
    measured: float
    limit: float
    unit: str
    at_most: bool = True

    @property
    def held(self) -> bool:
        """Whether the measured value is on the right side."""
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit

    @property
    def ratio(self) -> float:
        """Measured over limit."""
        return self.measured / self.limit if self.limit else float("inf")


class Result(msgspec.Struct):
    """One benchmark's outcome.

    ``peers`` says for each contender the version that was measured, or that it is absent. Everything behind ``data`` is filled in by
    `save`.
    """

    title: str
    about: str
    tables: list[Table]
    bars: list[Bar] = msgspec.field(default_factory=list)
    peers: dict[str, str] = msgspec.field(default_factory=dict)
    data: dict[str, object] = msgspec.field(default_factory=dict)
    plots: list[str] = msgspec.field(default_factory=list)
    """SVG files in `RESULTS`."""
    name: str = ""
    quick: bool = False
    measured: str = ""
    seconds: float = 0.0
    load: list[float] = msgspec.field(default_factory=list)
    """Load average (1 minute) before and after."""
    machine: dict[str, str] = msgspec.field(default_factory=dict)
    versions: dict[str, str] = msgspec.field(default_factory=dict)


def absent_or_version(package: str) -> str:
    """A peer's version, or ``absent``; trainbus itself may run from its tree."""
    if package == "trainbus":
        return __version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), platform.processor() or "unknown")
    return {"cpu": model, "cores": str(os.cpu_count()), "system": platform.platform(), "python": platform.python_version()}


def load() -> float:
    """The load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def save(result: Result) -> None:
    """Write one result where the report finds it."""
    RESULTS.mkdir(exist_ok=True)
    result.machine = machine()
    result.versions = {name: absent_or_version(name) for name in ("trainbus", "pyzmq", "msgspec")}
    result.measured = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    (RESULTS / f"{result.name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")


def markdown(table: Table) -> str:
    """The table as Markdown, its columns aligned for the terminal."""
    cells = [table.columns, *[[_cell(value) for value in row] for row in table.rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.columns))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return f"**{table.title}**\n\n" + "\n".join(lines)


def bars_table(bars: Sequence[Bar], title: str = "Bars") -> Table:
    """Bars as a table."""
    rows: list[list[str | float | int]] = [
        [
            bar.what,
            f"{'≤' if bar.at_most else '≥'} {_cell(bar.limit)} {bar.unit}".strip(),
            f"{_cell(bar.measured)} {bar.unit}".strip(),
            f"{bar.ratio:.2f}",
            "held" if bar.held else "MISSED",
        ]
        for bar in bars
    ]
    return Table(title, ["what", "bar", "measured", "measured / bar", ""], rows)


def show(result: Result, plots: str = "") -> str:
    """A result's part of the report; ``plots`` is the folder of the plots as the page names it."""
    parts = [
        f"## {result.title}",
        result.about,
        f"Command: `python -m benchmarks {result.name}{' --quick' if result.quick else ''}` · {result.measured} · {result.seconds:.0f} s"
        f" · load average {result.load[0]} before, {result.load[1]} after",
    ]
    if result.peers:
        parts.append("Peers: " + ", ".join(f"{name} {version}" for name, version in result.peers.items()))
    parts += [markdown(table) for table in result.tables]
    parts += [f"![{name.removesuffix('.svg')}]({plots}{name})" for name in result.plots]
    if result.bars:
        parts.append(markdown(bars_table(result.bars)))
    return "\n\n".join(parts) + "\n"


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.1f}"
