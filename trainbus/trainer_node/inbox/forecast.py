"""When the queue will be done, in the bytes an hour of the files that are done: kept with the queue, so a restart forgets nothing."""

from __future__ import annotations

import time

from msgspec import Struct

from trainbus.trainer_node.inbox.queue import WAITING, Queue
from trainbus.trainer_node.pace import Left, time_left, words

MEGABYTE = 1_000_000
RECENT = 20
"""Finished files that are looked back on: a model or machine that has changed is soon forgotten."""


class Forecast(Struct, frozen=True, kw_only=True):
    """The end of the queue.

    Args:
        files: Files that wait or are trained on.
        bytes: What is left of them, as far as that can be told.
        megabytes_per_hour: Megabytes (1,000,000 bytes) that are trained on in an hour; None while no file is done.
        left: Seconds of work that are left; None while unknown.
        finished: Files that this is learned from.
    """

    files: int
    bytes: int
    megabytes_per_hour: float | None = None
    left: Left | None = None
    finished: int = 0


def forecast(queue: Queue, *, now: int | None = None, done: float | None = None) -> Forecast:
    """From the queue alone.

    Args:
        queue: The queue.
        now: Wall clock in ns.
        done: Share of the current file that is done; None to judge by its time.
    """
    completed = sorted((job for job in queue.jobs(("completed",)) if job.seconds > 0 and job.bytes > 0), key=lambda job: job.ended or 0)
    parts = [(float(job.bytes), job.seconds) for job in completed[-RECENT:]]
    pace = sum(size for size, _ in parts) / sum(seconds for _, seconds in parts) if parts else None
    waiting, current = queue.jobs(WAITING), queue.jobs(("processing",))
    left = float(sum(job.bytes for job in waiting))
    for job in current:
        spent = job.seconds + ((now or time.time_ns()) - (job.started or 0)) / 1e9
        share = done if done is not None else min(1.0, spent * pace / job.bytes) if pace and job.bytes else 0.0
        left += job.bytes * (1.0 - share)
    return Forecast(
        files=len(waiting) + len(current),
        bytes=round(left),
        megabytes_per_hour=None if pace is None else pace * 3600 / MEGABYTE,
        left=time_left(parts, left),
        finished=len(parts),
    )


def told(found: Forecast) -> str:
    """For people."""
    if not found.files:
        return "Nothing waits."
    files = f"{found.files:,} file{'s' if found.files > 1 else ''}, {found.bytes / MEGABYTE:,.1f} MB left"
    if found.left is None or found.megabytes_per_hour is None:
        return f"{files}; how long that takes is known once a file is done."
    end = time.strftime("%a %d %b, %H:%M", time.localtime(time.time() + found.left.seconds))
    return f"{files} at {found.megabytes_per_hour:,.1f} MB/h: {words(found.left)}, until {end}."
