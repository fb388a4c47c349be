"""The host's memory, swap, pressure and load from Linux's /proc; the root is an argument, so that recorded files can be read as well."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

from trainbus.bus.events import Memory, Pressure
from trainbus.machine.text import UnknownError, counters, read_text, sizes

PAGE = os.sysconf("SC_PAGE_SIZE")


class Vm(Struct, frozen=True):
    """Counters since the machine started: bytes read from and written to swap, kills for want of memory (None before Linux 4.13)."""

    swapped_in: int
    swapped_out: int
    oom_kills: int | None


def read_memory(proc: Path) -> tuple[Memory, Memory]:
    """Host memory and swap.

    Raises:
        UnknownError: There is no meminfo, or it lacks MemAvailable (Linux before 3.14).
    """
    fields = sizes(read_text(proc / "meminfo"))
    try:
        total, available = fields["MemTotal"], fields["MemAvailable"]
    except KeyError as error:
        raise UnknownError(f"{proc / 'meminfo'} has no {error.args[0]}") from None
    swap_total, swap_free = fields.get("SwapTotal", 0), fields.get("SwapFree", 0)
    return Memory(total=total, used=total - available, available=available), Memory(total=swap_total, used=swap_total - swap_free)


def read_vm(proc: Path) -> Vm:
    """Swap traffic and kills.

    Raises:
        UnknownError: There is no vmstat, or it counts no swapping.
    """
    found = counters(read_text(proc / "vmstat"))
    try:
        return Vm(found["pswpin"] * PAGE, found["pswpout"] * PAGE, found.get("oom_kill"))
    except KeyError as error:
        raise UnknownError(f"{proc / 'vmstat'} has no {error.args[0]}") from None


def read_pressure(proc: Path, resource: str = "memory") -> Pressure:
    """Pressure on memory, io or cpu.

    Raises:
        UnknownError: The kernel keeps none (before 4.20, or switched off by psi=0).
    """
    return parse_pressure(proc / "pressure" / resource)


def parse_pressure(path: Path) -> Pressure:
    """A file of pressure: the host's, or a group's memory.pressure.

    Raises:
        UnknownError: It is missing, empty or not understood.
    """
    values: dict[str, float] = {}
    for line in read_text(path).splitlines():
        kind, *pairs = line.split() or [""]
        for pair in pairs:
            name, _, value = pair.partition("=")
            if kind in ("some", "full") and name in ("avg10", "avg60", "avg300"):
                try:
                    values[kind + name.removeprefix("avg").replace("10", "")] = float(value)
                except ValueError:
                    raise UnknownError(f"{path} can't be understood: {line!r}") from None
    if not values:
        raise UnknownError(f"{path} is empty")
    return Pressure(**values)


def read_load(proc: Path) -> list[float]:
    """Load averages of 1, 5 and 15 minutes.

    Raises:
        UnknownError: There is no loadavg, or it is not understood.
    """
    path = proc / "loadavg"
    text = read_text(path)
    try:
        one, five, fifteen = map(float, text.split()[:3])
    except ValueError:
        raise UnknownError(f"{path} can't be understood: {text[:60]!r}") from None
    return [one, five, fifteen]


def read_cpu(proc: Path) -> tuple[int, int]:
    """Clock ticks of all CPUs since the machine started: busy and in all. Waiting for a disk is not busy.

    Raises:
        UnknownError: There is no stat, or it is not understood.
    """
    path = proc / "stat"
    first = read_text(path).partition("\n")[0].split()
    # user nice system idle iowait irq softirq steal; guest time is in user already
    if len(first) < 5 or first[0] != "cpu" or not all(value.isdigit() for value in first[1:]):
        raise UnknownError(f"{path} can't be understood: {' '.join(first)[:60]!r}")
    ticks = [int(value) for value in first[1:9]]
    return sum(ticks) - ticks[3] - (ticks[4] if len(ticks) > 4 else 0), sum(ticks)
