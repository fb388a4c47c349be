"""What ``trainbus doctor`` looks at on the host: memory, limits, pressure, shared memory, open files, inodes, load, past kills."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

from trainbus.bus.home import home
from trainbus.cli.checks import Finding
from trainbus.machine.cgroups import locate, read_group
from trainbus.machine.disks import read_disks, read_shm
from trainbus.machine.proc import read_load, read_memory, read_pressure, read_vm
from trainbus.machine.text import UnknownError

PROC = Path("/proc")
SHM = Path("/dev/shm")
GIB = 1024**3

MEMORY_WARN, MEMORY_FAIL = 85.0, 97.0
"""Percent in use: from here on a training may be killed, and will be."""
FILES_WARN = 4_096
"""DataLoader workers pass each batch by an open file; the usual limit of 1024 is soon reached."""
SHM_WARN_BYTES = GIB
"""Docker's default of 64 MiB holds no batch of a few workers."""
INODES_WARN, INODES_FAIL = 10.0, 1.0
"""Percent that is free."""
LOAD_WARN = 2.0
"""Waiting processes for each CPU."""


def host(proc: Path = PROC, shm: Path = SHM) -> list[Finding]:
    """All of them; what can't be read is a warning that says why."""
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("memory", lambda: memory(proc)),
        ("memory limit", lambda: limit(proc)),
        ("memory pressure", lambda: pressure(proc)),
        ("shared memory", lambda: shared(shm)),
        ("open files", files),
        ("inodes", inodes),
        ("load", lambda: load(proc)),
        ("past kills", lambda: kills(proc)),
    )
    return [_asked(name, check) for name, check in checks]


def _asked(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except UnknownError as error:
        return Finding(check=name, state="warn", found=f"unknown: {error}", mend="trainbus can't warn of this here; all else works.")


def _filled(check: str, percent: float, found: str, mend: str) -> Finding:
    if percent >= MEMORY_WARN:
        return Finding(check=check, state="fail" if percent >= MEMORY_FAIL else "warn", found=found, mend=mend)
    return Finding(check=check, state="ok", found=found)


def memory(proc: Path) -> Finding:
    """Room in the host's memory, and whether there is swap behind it."""
    ram, swap = read_memory(proc)
    percent = 100.0 * ram.used / ram.total if ram.total else 100.0
    behind = f"{(swap.total - swap.used) / GIB:.1f} GiB of swap free" if swap.total else "no swap"
    found = f"{(ram.available or 0) / GIB:.1f} of {ram.total / GIB:.1f} GiB available, {behind}"
    return _filled("memory", percent, found, "End what else runs here (`ps aux --sort=-rss | head`) before a training starts.")


def limit(proc: Path) -> Finding:
    """The limit of the control group (container, job, unit) that this process lives in."""
    group = read_group(locate(proc, "self"))
    if group is None or not group.limit:
        return Finding(check="memory limit", state="ok", found="none: the host's memory is the limit")
    found = f"{group.used / GIB:.1f} of {group.limit / GIB:.1f} GiB in use in {group.path}"
    return _filled("memory limit", 100.0 * group.used / group.limit, found, "Give the container or job more memory.")


def pressure(proc: Path) -> Finding:
    """Whether the kernel tells pressure, and how much there is."""
    try:
        waits = read_pressure(proc).full or 0.0
    except UnknownError as error:
        mend = "It warns earliest: boot with psi=1 (Linux 4.20 or newer)."
        return Finding(check="memory pressure", state="warn", found=str(error), mend=mend)
    found = f"all tasks waited for memory {waits:.0f} % of the last 10 s"
    if waits >= 10:
        return Finding(check="memory pressure", state="warn", found=found, mend="Free memory: this machine is swapping or reclaiming.")
    return Finding(check="memory pressure", state="ok", found=found)


def shared(shm: Path) -> Finding:
    """The shared memory through which DataLoader workers pass batches."""
    found = read_shm(shm)
    said = f"{(found.available or 0) / GIB:.2f} of {found.total / GIB:.2f} GiB free, {found.segments} segments"
    if (found.available or 0) < SHM_WARN_BYTES:
        mend = "DataLoader workers need more: docker run --shm-size=8g; or remove segments that a killed training left in /dev/shm."
        return Finding(check="shared memory", state="warn", found=said, mend=mend)
    return Finding(check="shared memory", state="ok", found=said)


def files() -> Finding:
    """How many files a process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{_limit(soft)} (at most {_limit(hard)})"
    if soft != resource.RLIM_INFINITY and soft < FILES_WARN:
        return Finding(check="open files", state="warn", found=found, mend=f"ulimit -n {min(65_536, hard) if hard > 0 else 65_536}")
    return Finding(check="open files", state="ok", found=found)


def inodes() -> Finding:
    """Room for files on the file system of the state directory."""
    path = home()
    nearest = next(one for one in (path, *path.absolute().parents) if one.exists())
    disks, unknown = read_disks([nearest])
    if not disks:
        raise UnknownError(f"{nearest}: {unknown[str(nearest)]}")
    total, free = disks[0].inodes, disks[0].inodes_free
    if not total or free is None:
        return Finding(check="inodes", state="ok", found=f"{nearest} has no limit")
    percent = 100.0 * free / total
    found = f"{percent:.0f} % free under {nearest}"
    if percent < INODES_WARN:
        mend = "Remove directories of many small files: caches, old checkpoints."
        return Finding(check="inodes", state="fail" if percent < INODES_FAIL else "warn", found=found, mend=mend)
    return Finding(check="inodes", state="ok", found=found)


def load(proc: Path) -> Finding:
    """Whether the CPUs are free for a training."""
    five, cpus = read_load(proc)[1], os.cpu_count() or 1
    found = f"{five:.1f} over five minutes on {cpus} CPUs"
    if five > LOAD_WARN * cpus:
        return Finding(check="load", state="warn", found=found, mend="Others work here: a training will be slow.")
    return Finding(check="load", state="ok", found=found)


def kills(proc: Path) -> Finding:
    """Whether the kernel has killed for want of memory since it started."""
    count = read_vm(proc).oom_kills
    if count is None:
        raise UnknownError("the kernel does not count them (before 4.13)")
    if count:
        mend = "`dmesg | grep -i 'out of memory'` shows whom; the plugin memory warns before the next."
        return Finding(check="past kills", state="warn", found=f"{count} processes killed for want of memory", mend=mend)
    return Finding(check="past kills", state="ok", found="none for want of memory since the machine started")


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else f"{value:,}"
