"""One report out of what was measured last: results/report.md and results/report.json."""

from __future__ import annotations

import contextlib

import msgspec

from benchmarks.frame import RESULTS, Bar, Result, bars_table, markdown, show

MD, JSON = RESULTS / "report.md", RESULTS / "report.json"


def results(order: list[str]) -> list[Result]:
    """What is there, in the given order."""
    found = []
    for name in order:
        with contextlib.suppress(OSError, msgspec.DecodeError):  # not measured yet, or by another version of this frame
            found.append(msgspec.json.decode((RESULTS / f"{name}.json").read_bytes(), type=Result))
    return found


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
