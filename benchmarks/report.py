"""One report out of what was measured last: results/report.md and results/report.json."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

import msgspec

from benchmarks.frame import RESULTS, Bar, Result, Table, bars_table, markdown, show

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks.md"
PLOTS = DOCS.parent / "plots"
MD, JSON = RESULTS / "report.md", RESULTS / "report.json"


def results(order: list[str]) -> list[Result]:
    """What is there, in the given order."""
    found = []
    for name in order:
        with contextlib.suppress(OSError, msgspec.DecodeError):  # not measured yet, or by another version of this frame
            found.append(msgspec.json.decode((RESULTS / f"{name}.json").read_bytes(), type=Result))
    return found


def write_docs(order: list[str]) -> None:
    """Put what was measured last into the page that quotes it."""
    found = results(order)
    rows: list[list[str | float | int]] = [
        [f"`{result.name}`", *row, f"{result.load[0]} to {result.load[1]}"]
        for result in found
        for row in bars_table(result.bars).rows
    ]  # fmt: skip
    table = Table("", ["benchmark", "what", "bar", "measured", "measured / bar", "", "load average"], rows)
    machine = found[0].machine
    where = f"{found[0].measured}, {machine['cores']} cores ({machine['cpu']}), {machine['system']}, Python {machine['python']}"
    PLOTS.mkdir(exist_ok=True)
    for name in [name for result in found for name in result.plots]:
        shutil.copy(RESULTS / name, PLOTS / name)
    parts = [show(msgspec.structs.replace(result, bars=[]), f"{PLOTS.name}/").replace("## ", "### ", 1) for result in found]
    block = "\n".join(["<!-- results -->", f"Measured {where}.{markdown(table).removeprefix('****')}\n", *parts, "<!-- end -->"])
    DOCS.write_text(re.sub(r"<!-- results -->.*?<!-- end -->", lambda _: block, DOCS.read_text(), flags=re.DOTALL))


def write(order: list[str]) -> list[Bar]:
    """Write both files; returns all bars."""
    found = results(order)
    bars = [Bar(f"{result.name}: {bar.what}", bar.measured, bar.limit, bar.unit, bar.at_most) for result in found for bar in result.bars]
    facts = found[-1].machine | found[-1].versions if found else {}
    head = "# Benchmarks\n\n" + " · ".join(f"{name} {value}" for name, value in facts.items()) + "\n"
    summary = markdown(bars_table(bars, "All bars")) + "\n"
    MD.write_text("\n".join([head, summary, *map(show, found)]))
    JSON.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    return bars
