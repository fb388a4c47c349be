"""What grows without a training's steps: the memory of the whole machine over time, and the disks that checkpoints fill."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct, field

from trainbus.bus.events import Disk, Severity, System
from trainbus.plugins.memory.book import Book
from trainbus.plugins.memory.config import MemoryConfig
from trainbus.plugins.memory.forecast import EXTRAPOLATE
from trainbus.plugins.memory.gauges import DISK_ADVICE, HOST_ADVICE, biggest, biggest_run
from trainbus.plugins.memory.leaks import MB, SOON_SECONDS, duration
from trainbus.plugins.memory.levels import limits
from trainbus.plugins.memory.runs import RunView
from trainbus.plugins.memory.series import Series

END_SPAN = 60.0
"""Seconds over which the machine's memory must have risen evenly: loading a model is over by then, or is a phase of its own."""
END_HORIZON = 3_600.0
"""Seconds: what a machine does in an hour can't be told from how its memory moved in a few minutes."""
END_HOLDS = 20.0
"""Seconds for which a predicted end must hold before it is spoken of, unless it is as near as `END_SPAN`: work comes in waves."""
DISK_EXTRAPOLATE = 60.0
"""A disk's line is followed this many times as far as it has been seen: a minute of somebody's writing says nothing of tomorrow."""
MEMORY_POINT = 1.0
DISK_POINT = 5.0
"""Seconds between points of the line of a memory, and of a disk: looks are closer while memory rises, and would weigh more there."""


class HostView(Struct):
    """Lines over time, by limit and by disk."""

    memory: dict[str, Series] = field(default_factory=dict)
    disks: dict[str, Series] = field(default_factory=dict)
    disk_time: int = 0
    since: dict[str, int] = field(default_factory=dict)


class HostEnd(Struct, frozen=True):
    """A memory of the machine that ends by itself."""

    limit: str
    seconds: float


def judge_host(event: System, view: HostView, runs: Iterable[RunView], config: MemoryConfig, book: Book) -> HostEnd | None:
    """Follow memory that ends and disks that fill; gives the first end of memory that is predicted."""
    known = list(runs)
    busy = any(not run.training or run.step is None for run in known)
    first = None
    for limit in limits(event):
        series = view.memory.setdefault(limit.key, Series())
        if not busy and (not series.recent or event.time / 1e9 - series.recent[-1][0] >= MEMORY_POINT):
            series.add(event.time / 1e9, limit.used)
        key = f"end {limit.key}"
        trend = None if busy or book.keys("leak ") else series.trend()
        seconds = None if trend is None or trend.span < END_SPAN else limit.room / trend.slope
        near = trend is not None and seconds is not None and seconds <= min(END_HORIZON, EXTRAPOLATE * trend.span)
        if not near:
            view.since.pop(key, None)
        held = (event.time - view.since.setdefault(key, event.time)) / 1e9 if near else 0.0
        if trend is not None and seconds is not None and near and (held >= END_HOLDS or seconds <= END_SPAN):
            message = f"The {limit.what} grows by {trend.slope / MB:.1f} MB a second and ends in about {duration(seconds)}."
            evidence = {"unit": "s", "limit": limit.key, "room": limit.room, "mb_per_second": trend.slope / MB, "processes": biggest(event)}
            book.tell(
                event,
                key,
                "memory_end",
                _severity(seconds),
                message,
                run=biggest_run(event),
                evidence=evidence,
                advice=HOST_ADVICE,
                value=seconds,
            )
            if first is None or seconds < first.seconds:
                first = HostEnd(limit.key, seconds)
        elif seconds is None or seconds > 2 * END_HORIZON:
            book.clear(event, key, f"The {limit.what} grows no more.", unit="s")
    if event.time - view.disk_time >= DISK_POINT * 1e9:
        view.disk_time = event.time
        for disk in event.disks:
            _disk(event, disk, view, known, config, book)
    return first


def _disk(event: System, disk: Disk, view: HostView, runs: list[RunView], config: MemoryConfig, book: Book) -> None:
    series = view.disks.setdefault(disk.path, Series())
    series.add(event.time / 1e9, disk.total - disk.free)
    key = f"fill {disk.path}"
    trend = series.trend()
    seconds = disk.free / trend.slope if trend is not None else None
    far = None if trend is None else min(config.horizon_hours * 3_600, DISK_EXTRAPOLATE * trend.span)
    if trend is not None and seconds is not None and far is not None and seconds <= far and trend.span >= END_SPAN:
        message = f"The disk of {disk.path} fills by {trend.slope / MB:.1f} MB a second and is full in about {duration(seconds)}."
        evidence = {"unit": "s", "free": disk.free, "mb_per_second": trend.slope / MB}
        book.tell(
            event,
            key,
            "disk_end",
            _severity(seconds),
            message,
            run=biggest_run(event),
            evidence=evidence,
            advice=DISK_ADVICE,
            value=seconds,
        )
    elif trend is None:
        book.clear(event, key, f"The disk of {disk.path} fills no more.", unit="s")
    for run in runs:
        if run.folder and run.checkpoint_bytes and _holds(disk, run.folder, event.disks):
            _next_save(event, disk, run, run.checkpoint_bytes, book)


def _next_save(event: System, disk: Disk, run: RunView, size: int, book: Book) -> None:
    """Whether the next checkpoints of a run have room."""
    key, fits = f"save {run.run}", disk.free / size
    if fits < 2:
        rest = "does not fit" if fits < 1 else "fits, the one after it does not"
        message = (
            f"The next checkpoint of {run.name or run.run} ({size / 1e9:.2f} GB) {rest}: {disk.free / 1e9:.2f} GB are free at {disk.path}."
        )
        evidence = {"unit": "checkpoints", "free": disk.free, "checkpoint_bytes": size}
        book.tell(
            event,
            key,
            "checkpoint_room",
            "critical" if fits < 1 else "warning",
            message,
            run=run.run,
            evidence=evidence,
            advice=DISK_ADVICE,
            value=fits,
        )
    elif fits >= 3:
        book.clear(event, key, f"There is room for {int(fits)} checkpoints.", value=fits, unit="checkpoints")


def _holds(disk: Disk, folder: str, disks: list[Disk]) -> bool:
    """Whether a folder lies on this disk, as far as paths tell: the longest path above it counts."""
    above = [one.path for one in disks if Path(folder).is_relative_to(one.path)]
    return disk.path == max(above, key=len, default=disks[0].path if len(disks) == 1 else "")


def _severity(seconds: float) -> Severity:
    return "critical" if seconds <= SOON_SECONDS else "warning"
