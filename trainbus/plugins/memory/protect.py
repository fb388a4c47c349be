"""The watcher outlives the trainer: the kernel is asked to spare this process. And the last resort, which ends another one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from trainbus.machine.processes import TICKS, parse_stat
from trainbus.machine.text import UnknownError, read_text
from trainbus.machine.training import START_TOLERANCE, Training

SPARED = -900
"""Near the lowest, which is -1000: a watcher that has a leak of its own can still be killed."""


def spare(proc: Path, adjustment: int = SPARED) -> str:
    """Ask the kernel to kill others first; "" when it does, else why it doesn't. Lowering it needs CAP_SYS_RESOURCE."""
    path = proc / "self" / "oom_score_adj"
    try:
        path.write_text(str(adjustment))
    except OSError as error:
        return f"{path} can't be set to {adjustment}: {error.strerror or error}"
    return ""


class Victim:
    """The process group that a training leads, or its process alone when it leads none.

    Args:
        training: Whose it is.
        proc: Where the kernel's files are.
        group_of: Gives a process's group.
        kill: Sends a signal; to a group when the number is negative.
    """

    def __init__(
        self,
        training: Training,
        proc: Path = Path("/proc"),
        group_of: Callable[[int], int] = os.getpgid,
        kill: Callable[[int, int], None] = os.kill,
    ) -> None:
        self._training = training
        self._proc = proc
        self._group_of = group_of
        self._kill = kill
        self._started = self._identity()

    def alive(self) -> bool:
        """Whether it is still the process that the run's start told of."""
        return self._started is not None and self._identity() == self._started

    def end(self, number: signal.Signals) -> bool:
        """Send a signal; False when the process is gone. Never to the group of this very process."""
        if not self.alive():
            return False
        pid = self._training.pid
        try:
            leads = self._group_of(pid) == pid != self._group_of(0)
            self._kill(-pid if leads else pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _identity(self) -> int | None:
        """When the process started, in ticks; None when it is gone, or another one has its number."""
        try:
            stat = parse_stat(read_text(self._proc / str(self._training.pid) / "stat"))
            booted = next(int(line.split()[1]) for line in read_text(self._proc / "stat").splitlines() if line.startswith("btime "))
        except (UnknownError, StopIteration):
            return None
        if stat.state in "ZX" or booted + stat.started / TICKS > self._training.time / 1e9 + START_TOLERANCE:
            return None
        return stat.started
