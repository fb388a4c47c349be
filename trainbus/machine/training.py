"""Which trainings work on this machine."""

from __future__ import annotations

from msgspec import Struct

START_TOLERANCE = 2.0
"""Seconds: clocks of process start are coarse. A process that is younger than the run's start event is another one with its number."""


class Training(Struct, array_like=True, frozen=True):
    """A run whose process works on this host, as its start event said; ``time`` in nanoseconds since the epoch."""

    run: str
    pid: int
    time: int
    name: str = ""


def address_space_of(pid: int) -> str:
    """The name of the limit of a process's address space, in place of a control group's path."""
    return f"address space of process {pid}"
