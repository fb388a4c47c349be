"""Orphaned spools: find what dead processes left, send it, remove it.

A spool's lock is held by its owner for life, and by whoever drains it: two never work on the same one.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from trainbus.bus import wire
from trainbus.bus.channel import Channel
from trainbus.bus.credentials import find_broker
from trainbus.bus.home import home
from trainbus.bus.link import Link
from trainbus.bus.outbox import Outbox
from trainbus.bus.spool import Spool, read_meta, remove_stale_drafts, segment_files, spool_root, try_lock, unlock
from trainbus.errors import SpoolError

NO_PROGRESS_SECONDS = 5.0
"""Draining gives up when the broker has acknowledged nothing for this long."""
WAIT_SECONDS = 0.1


class SpoolInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A spool on this machine. ``held``: its owner lives, or somebody drains it. ``waiting``: events not acknowledged."""

    path: Path
    source: str
    run: str
    name: str
    host: str
    pid: int
    created: int
    held: bool
    published: int
    waiting: int
    bytes: int
    problem: str = ""


class DrainReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one orphan: ``acknowledged`` of its ``published`` events are committed; ``done``: all, and it is removed."""

    path: Path
    source: str
    run: str
    published: int
    acknowledged: int
    done: bool
    problem: str = ""


def spools(root: Path | None = None) -> list[SpoolInfo]:
    """All spools under ``root``, those that can't be read (``problem``) included."""
    inspected = [_inspect(path) for path in _directories(root or home())]
    return [info for info in inspected if info.path.exists()]  # one may be drained and removed while we look


def orphans(root: Path | None = None) -> list[Path]:
    """Directories of spools whose owner is dead."""
    return [path for path in _directories(root or home()) if not _is_held(path)]


def drain_orphans(
    root: Path | None = None,
    router: str | None = None,
    *,
    progress: Callable[[DrainReport], None] | None = None,
    stop: threading.Event | None = None,
    patience: float = NO_PROGRESS_SECONDS,
) -> list[DrainReport]:
    """Send every orphan's events to the broker and remove those that are acknowledged wholly. Safe to repeat, and to run twice at once.

    Args:
        router: The broker's address; default: the connection file's.
        progress: Called after each acknowledgement with the report so far.
        stop: Set it to end early; what is acknowledged stays so.
        patience: Seconds without an acknowledgement after which a spool is left for later.

    Raises:
        UnreachableError: There are orphans, but no broker is known.
    """
    root = root or home()
    stop = stop or threading.Event()
    remove_stale_drafts(root)
    found = orphans(root)
    if not found:
        return []
    if router is None:
        find_broker(root)  # no broker is told at once; its file is then followed
    reports = []
    for path in found:
        if stop.is_set():
            break
        report = _drain_one(path, root, router, progress or (lambda _: None), stop, patience)
        if report is not None:
            reports.append(report)
    return reports


def _drain_one(
    path: Path, root: Path, router: str | None, progress: Callable[[DrainReport], None], stop: threading.Event, patience: float
) -> DrainReport | None:
    lock = try_lock(path)
    if lock is None:  # somebody else was faster
        return None
    try:
        spool, segments = Spool.recover(path, lock)
    except SpoolError as error:
        unlock(lock)
        return DrainReport(path=path, source=path.name, run="", published=0, acknowledged=0, done=False, problem=error.problem)
    outbox = Outbox.recover(spool, segments)
    about = spool.identity
    hello = wire.Hello(
        protocol=wire.PROTOCOL, source=about.source, run=about.run, name=about.name, host=about.host, pid=about.pid, draining=True
    )
    link = Link(hello, outbox)

    def report(*, done: bool = False, problem: str = "") -> DrainReport:
        return DrainReport(
            path=path,
            source=about.source,
            run=about.run,
            published=outbox.next,
            acknowledged=outbox.acknowledged,
            done=done,
            problem=problem,
        )

    channel = Channel(link, root=root, router=router)
    try:
        moved_at, seen = time.monotonic(), outbox.acknowledged
        while not (outbox.acknowledged >= outbox.next or link.settled or stop.is_set()):
            now = time.monotonic()
            channel.pump(now)
            if outbox.acknowledged != seen:
                moved_at, seen = now, outbox.acknowledged
                progress(report())
            elif now - moved_at > patience:
                break
            channel.wait(min(WAIT_SECONDS, max(0.0, channel.wake_at() - now)))
    finally:
        channel.close()
        done = outbox.close()
    if done:
        return report(done=True)
    return report(
        problem="stopped" if stop.is_set() else link.problem or f"{router or 'the broker'} acknowledged nothing for {patience:g} s"
    )


def _directories(root: Path) -> list[Path]:
    parent = spool_root(root)
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if not path.name.startswith(".") and path.is_dir())


def _is_held(path: Path) -> bool:
    lock = try_lock(path, shared=True)
    if lock is None:
        return True
    unlock(lock)
    return False


def _inspect(path: Path) -> SpoolInfo:
    size = 0
    for file in segment_files(path):
        with contextlib.suppress(FileNotFoundError):  # acknowledged meanwhile
            size += file.stat().st_blocks * 512
    held = _is_held(path)
    try:
        about, acknowledged, published = read_meta(path)
    except SpoolError as error:
        return SpoolInfo(
            path=path, source=path.name, run="", name="", host="", pid=0, created=0, held=held, published=0, waiting=0, bytes=size,
            problem=error.problem,
        )  # fmt: skip
    return SpoolInfo(
        path=path,
        source=about.source,
        run=about.run,
        name=about.name,
        host=about.host,
        pid=about.pid,
        created=about.created,
        held=held,
        published=published,
        waiting=max(0, published - acknowledged),
        bytes=size,
    )
