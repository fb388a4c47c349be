"""Host memory, swap and pressure from Linux's /proc; the root is an argument, so that recorded files can be read as well."""

from __future__ import annotations

from pathlib import Path

from trainbus.bus.events import Memory, Pressure

KIB = 1024


class UnknownError(Exception):
    """A value can't be known here; the message is the reason, in words. Never stands for zero."""


def read_memory(proc: Path) -> tuple[Memory, Memory]:
    """Host memory and swap.

    Raises:
        UnknownError: There is no meminfo, or it lacks MemAvailable (Linux before 3.14).
    """
    fields = _meminfo(_text(proc / "meminfo"))
    try:
        total, available = fields["MemTotal"], fields["MemAvailable"]
    except KeyError as error:
        raise UnknownError(f"{proc / 'meminfo'} has no {error.args[0]}") from None
    swap_total, swap_free = fields.get("SwapTotal", 0), fields.get("SwapFree", 0)
    return Memory(total=total, used=total - available, available=available), Memory(total=swap_total, used=swap_total - swap_free)


def read_pressure(proc: Path) -> Pressure:
    """The last 10 s of memory pressure.

    Raises:
        UnknownError: The kernel keeps none (before 4.20, or switched off by psi=0).
    """
    path = proc / "pressure" / "memory"
    values: dict[str, float] = {}
    for line in _text(path).splitlines():
        kind, *pairs = line.split()
        for pair in pairs:
            name, _, value = pair.partition("=")
            if name == "avg10":
                try:
                    values[kind] = float(value)
                except ValueError:
                    raise UnknownError(f"{path} can't be understood: {line!r}") from None
    if not values:
        raise UnknownError(f"{path} is empty")
    return Pressure(some=values.get("some"), full=values.get("full"))


def _meminfo(text: str) -> dict[str, int]:
    """Bytes by name; lines that are no sizes (HugePages_Total) or are torn are left out."""
    fields = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        match rest.split():
            case [value, "kB"] if value.isdigit():
                fields[name] = int(value) * KIB
    return fields


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        # EOPNOTSUPP is what a kernel with psi=0 answers to a read of an existing file.
        raise UnknownError(f"{path} can't be read: {error.strerror or error}") from error
