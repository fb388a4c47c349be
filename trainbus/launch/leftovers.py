"""What the command started and left behind ends with it, also when it has made itself a daemon.

As systemd, Slurm and containers do it: a forgotten DataLoader worker or a hung rank would hold memory, GPU and port of the next training.
Orphans become our children (PR_SET_CHILD_SUBREAPER), so that none gets away; where the system has no such thing, the group is all we see.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from trainbus.machine.processes import Stat, parse_stat
from trainbus.machine.text import UnknownError, read_text

PR_SET_CHILD_SUBREAPER = 36
ALONE_SECONDS = 1.0
"""Helpers (multiprocessing's resource tracker, DataLoader workers) end by themselves when the pipe to their parent closes."""
TERM_SECONDS = 5.0
"""From SIGTERM to SIGKILL."""
KILL_SECONDS = 5.0
"""One that SIGKILL has not ended by then hangs in a driver or a dead network disk."""
POLL_SECONDS = 0.02


def adopt() -> None:
    """Become the parent of orphans among our descendants. Without effect where there is no such thing."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(root: int, proc: Path = Path("/proc")) -> dict[int, Stat]:
    """Everything below ``root`` that runs, by pid."""
    stats: dict[int, Stat] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(proc):  # noqa: PTH208 - names are all that is needed
            if name.isdigit():
                with contextlib.suppress(UnknownError):
                    stats[int(name)] = parse_stat(read_text(proc / name / "stat"))
    found: dict[int, Stat] = {}
    waiting = [root]
    while waiting:
        parent = waiting.pop()
        below = [pid for pid, stat in stats.items() if stat.parent == parent and pid not in found]
        found |= {pid: stats[pid] for pid in below}
        waiting += below
    return {pid: stat for pid, stat in found.items() if stat.state not in "ZX"}


def end_leftovers(group: int, idle: Callable[[float], None]) -> tuple[list[str], list[str]]:
    """End what is left of a command that has ended.

    Args:
        group: Its process group.
        idle: Waits for so many seconds, while output goes on being read.

    Returns:
        Those that had to be told, and those of them that not even SIGKILL has ended (stuck in the kernel), by name and pid.
    """
    if not Path("/proc/self/stat").exists():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGTERM)
        return [], []
    told = remaining = _wait(ALONE_SECONDS, idle)
    if remaining:
        # One that is stopped (SIGSTOP, Ctrl-Z) takes SIGTERM only when it goes on.
        _send(remaining, signal.SIGTERM)
        _send(remaining, signal.SIGCONT)
        remaining = _wait(TERM_SECONDS, idle)
    deadline = time.monotonic() + KILL_SECONDS
    while remaining and time.monotonic() < deadline:  # what forks while it is killed shows up in the next look
        _send(remaining, signal.SIGKILL)
        remaining = _wait(POLL_SECONDS, idle)
    return _named(told), _named(remaining)


def _wait(seconds: float, idle: Callable[[float], None]) -> dict[int, Stat]:
    deadline = time.monotonic() + seconds
    while (remaining := descendants(os.getpid())) and time.monotonic() < deadline:
        idle(POLL_SECONDS)
    return remaining


def _send(remaining: dict[int, Stat], number: int) -> None:
    for pid in remaining:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _named(processes: dict[int, Stat]) -> list[str]:
    return [f"{stat.name} ({pid})" for pid, stat in processes.items()]
