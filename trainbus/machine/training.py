"""Which trainings work on this machine."""

from __future__ import annotations

from msgspec import Struct


class Training(Struct, array_like=True, frozen=True):
    """A run whose process works on this host, as its start event said; ``time`` in nanoseconds since the epoch."""

    run: str
    pid: int
    time: int
    name: str = ""


def address_space_of(pid: int) -> str:
    """The name of the limit of a process's address space, in place of a control group's path."""
    return f"address space of process {pid}"
