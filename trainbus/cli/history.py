"""Finding places in the history: a run by what a person calls it, an offset by time or by counting back."""

from __future__ import annotations

import datetime
import difflib
import re
import time
from collections.abc import Sequence

from trainbus.bus.client import Client
from trainbus.bus.events import AnyEvent, decode
from trainbus.bus.wire import RunInfo
from trainbus.cli.app import UsageError
from trainbus.errors import RefusedError

UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
FIRST_LOOK = 1_000
"""Offsets that the search for the last N events looks back at first; it goes on in growing parts."""


def known_run(client: Client, name: str) -> RunInfo:
    """The run with that id, or the only one whose id begins so.

    Raises:
        RefusedError: There is none, or more than one.
    """
    runs = client.runs()
    exact = [run for run in runs if run.run == name]
    found = exact or [run for run in runs if run.run.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(run.run for run in found[:5])
        raise RefusedError(f"{len(found)} runs begin with {name!r}: {ids}.", hint="Write more of the id.", code="ambiguous", run=name)
    near = difflib.get_close_matches(name, [run.run for run in runs], n=1)
    hint = f"Did you mean `{near[0]}`?" if near else "`trainbus runs list` shows which there are."
    raise RefusedError(f"The journal knows no run {name!r}.", hint=hint, code="unknown", run=name)


def known_runs(client: Client, names: Sequence[str]) -> list[str]:
    """Ids of all of them, see `known_run`."""
    return [known_run(client, name).run for name in names]


def running_run(client: Client) -> RunInfo:
    """The only run that is running now.

    Raises:
        RefusedError: There is none, or more than one.
    """
    running = [run for run in client.runs() if run.state == "running"]
    if len(running) == 1:
        return running[0]
    if not running:
        raise RefusedError("No run is running.", hint="`trainbus runs list` shows all.", code="ended")
    ids = ", ".join(run.run for run in running[:5])
    raise RefusedError(f"{len(running)} runs are running: {ids}.", hint="Name one of them.", code="ambiguous")


def parse_since(text: str, now: int | None = None) -> int:
    """A point in time: ``10m``, ``2h``, ``3d`` ago, or an ISO date and time (local unless it names a zone), as ns since the epoch.

    Raises:
        UsageError: It is neither.
    """
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip()):
        return (time.time_ns() if now is None else now) - int(float(match[1]) * UNITS[match[2]] * 1e9)
    try:
        return int(datetime.datetime.fromisoformat(text).astimezone().timestamp() * 1e9)
    except ValueError:
        problem = f"{text!r} is no time."
        raise UsageError(problem, hint="Write e.g. 10m, 2h, 3d (ago), or 2026-05-01T12:30.", found=text) from None


def offset_before(client: Client, moment: int, head: int) -> int:
    """The largest offset whose event is older than ``moment`` (ns), or -1; by the times that events are stamped with."""
    low, high = -1, head
    while low < high:
        middle = low + (high - low + 1) // 2
        event = _first(client, middle, high)
        if event is None or event.time >= moment:
            high = middle - 1
        else:
            low = event.offset
    return low


def _first(client: Client, offset: int, upto: int) -> AnyEvent | None:
    """The event at an offset or, where a deleted run left a hole, the next one."""
    page = client.history(after=offset - 1, upto=upto, limit=1)
    return decode(page.events[0][1], page.events[0][0]) if page.events else None


def last_events(client: Client, count: int, head: int, *, kinds: Sequence[str], runs: Sequence[str]) -> list[AnyEvent]:
    """The last ``count`` matching events up to ``head``, in order; reads backwards in growing parts."""
    found: list[AnyEvent] = []
    upper, look = head, FIRST_LOOK
    while len(found) < count and upper >= 0:
        lower = max(upper - look, -1)
        found = [*client.events(kinds=kinds, runs=runs, after=lower, upto=upper), *found]
        upper, look = lower, look * 4
    return found[len(found) - count :] if count < len(found) else found
