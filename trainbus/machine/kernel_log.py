"""What the kernel's log says of kills for want of memory and of GPU faults, where it may be read.

Each record of /dev/kmsg is ``priority,sequence,microseconds,flags;text`` and may go on in lines that begin with a space.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from trainbus.machine.text import UnknownError

RECORD_BYTES = 8_192
"""A read gives one record and fails when the buffer is too small; the kernel's limit is a little over 1 KiB with its fields."""
MAX_RECORDS = 5_000
"""In one look: a flood of messages must not hold the look up."""

KILLED = re.compile(
    r"(?P<group>Memory cgroup out of memory|Out of memory)(?: \(.*?\))?: Kill(?:ed)? process (?P<pid>\d+) \((?P<name>[^)]*)\)"
)
REAPED = re.compile(r"^Killed process (?P<pid>\d+) \((?P<name>[^)]*)\)")
ANON = re.compile(r"anon-rss:(\d+)kB")
XID = re.compile(r"NVRM: Xid \((?:PCI:)?(?P<bus>[0-9a-fA-F:.]+)\): (?P<xid>\d+)")


class Kill(Struct, frozen=True):
    """A line about a kill. ``group`` is true when a control group's limit was the reason; ``anon`` is None when the line lacks it."""

    pid: int
    name: str
    group: bool
    anon: int | None


def parse_kill(line: str) -> Kill | None:
    """What a line says of a kill; None when it is about something else. Knows the words of Linux 2.6 to 6.x."""
    found = KILLED.search(line) or REAPED.search(line)
    if found is None:
        return None
    anon = ANON.search(line)
    group = "Memory cgroup" in line
    return Kill(int(found["pid"]), found["name"], group, int(anon[1]) * 1024 if anon else None)


def parse_xid(line: str) -> tuple[str, int] | None:
    """PCI bus id (as ``0000:3b:00``) and number of a GPU fault; None when the line is about something else."""
    found = XID.search(line)
    return (found["bus"].lower().rstrip("."), int(found["xid"])) if found else None


def interesting(lines: Iterable[str]) -> list[str]:
    """The lines about kills and GPU faults."""
    return [line for line in lines if parse_kill(line) or parse_xid(line)]


class KernelLog:
    """Follows /dev/kmsg from now on.

    Raises:
        UnknownError: It can't be opened: there is none (a container), or it may not be read (kernel.dmesg_restrict).
    """

    def __init__(self, path: Path = Path("/dev/kmsg")) -> None:
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.lseek(self._file, 0, os.SEEK_END)
            except OSError:
                os.close(self._file)
                raise
        except OSError as error:
            raise UnknownError(f"{path} can't be read: {error.strerror or error}") from error

    def new(self) -> list[str]:
        """The texts that came since the last call."""
        texts = []
        for _ in range(MAX_RECORDS):
            try:
                record = os.read(self._file, RECORD_BYTES)
            except BlockingIOError:
                break
            except BrokenPipeError:  # the ring has overwritten what was not read yet; the next read goes on behind
                continue
            except OSError:
                break
            if not record:
                break
            texts.append(record.decode("utf-8", "replace").partition(";")[2].partition("\n")[0])
        return texts

    def close(self) -> None:
        """Let it go."""
        os.close(self._file)
