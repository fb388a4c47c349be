"""Series as a file that a spreadsheet or a script reads."""

from __future__ import annotations

import csv
import io

from msgspec import Struct

from trainbus.plugins.web.run_view import RunView
from trainbus.plugins.web.series import Series

MAIN = ("loss", "accuracy_50")
"""Series that are exported when none are named, beside the memory of the run's machine."""


class Exported(Struct, frozen=True):
    """One series: ``axis`` says what stands in ``x`` (step, or seconds since the epoch)."""

    axis: str
    x: list[int]
    values: list[float]


def exported(view: RunView, metrics: list[str], memory: Series | None) -> dict[str, Exported]:
    """The named metrics, or loss, accuracy and memory: every point that is held, empty columns for what is not known."""
    table = {}
    for name in metrics or MAIN:
        series = view.series.get(name)
        told = {"accuracy_50": "accuracy"}.get(name, name) if not metrics else name
        table[told] = Exported("step", series.steps.tolist() if series else [], series.values.tolist() if series else [])
    if not metrics:
        table["memory_percent"] = Exported("time", memory.steps.tolist() if memory else [], memory.values.tolist() if memory else [])
    return table


def as_csv(table: dict[str, Exported]) -> bytes:
    """One row for each point: series, axis, x, value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("series", "axis", "x", "value"))
    for name, series in table.items():
        writer.writerows((_harmless(name), series.axis, x, value) for x, value in zip(series.x, series.values, strict=True))
    return text.getvalue().encode("utf-8", "replace")


def _harmless(name: str) -> str:
    """A name that a spreadsheet doesn't take for a formula: metrics are named by whoever publishes them."""
    return f"'{name}" if name[:1] in ("=", "+", "-", "@", "\t", "\r") else name
