"""Signals that we get, with who sent them, and children that end.

They are blocked everywhere and taken by one thread: only so the sender is known, and a write to a slow terminal holds none of them up.
"""

from __future__ import annotations

import os
import pwd
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

FORWARDED = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP, signal.SIGCONT,
)  # fmt: skip
TAKEN = frozenset({*FORWARDED, signal.SIGCHLD, signal.SIGWINCH})
ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})


class Sent(Struct, frozen=True):
    """A signal that was sent to us, and by whom, in words; empty when the kernel sent it (a key on the terminal)."""

    number: int
    sender: str


class Ended(Struct, frozen=True):
    """How the command ended: an exit code, or the signal that killed it."""

    exit_code: int | None
    signal: int | None

    @property
    def status(self) -> int:
        """What a shell would say: the exit code, or 128 and the signal."""
        return self.exit_code if self.exit_code is not None else 128 + (self.signal or 0)


def block() -> set[int]:
    """Hold all of them back, in this thread and in those that it starts; those that we were told to ignore (nohup) stay ignored."""
    taken = {number for number in TAKEN if number == signal.SIGCHLD or signal.getsignal(number) is not signal.SIG_IGN}
    signal.pthread_sigmask(signal.SIG_BLOCK, taken)
    return {int(number) for number in taken}


class Signals:
    """The thread that takes signals.

    Args:
        taken: What `block` gave.
        child: The command's process, and its group.
        told: Called in this thread with each signal that is forwarded or resizes the window.
        reaped: Called in this thread with the end of the command.
    """

    def __init__(self, taken: set[int], child: int, told: Callable[[Sent], None], reaped: Callable[[Ended], None]) -> None:
        self._taken, self._child = taken, child
        self._told, self._reaped = told, reaped
        self.over = threading.Event()
        self.received: list[Sent] = []
        threading.Thread(target=self._work, name="trainbus-signals", daemon=True).start()

    def _work(self) -> None:
        while True:
            found = signal.sigwaitinfo(self._taken)
            if found.si_signo == signal.SIGCHLD:
                self._reap()
                continue
            sent = Sent(found.si_signo, sender(found.si_pid, found.si_uid))
            if found.si_signo in FORWARDED:
                self.received.append(sent)
                self._forward(found.si_signo)
            self._told(sent)
            if found.si_signo == signal.SIGTSTP:
                os.kill(os.getpid(), signal.SIGSTOP)  # the shell that asked for it waits for this

    def _forward(self, number: int) -> None:
        if not self.over.is_set():
            try:
                os.killpg(self._child, number)
            except (ProcessLookupError, PermissionError):
                return

    def _reap(self) -> None:
        """All that have ended: the command, and orphans that became ours."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._child:
                self.over.set()
                code = os.waitstatus_to_exitcode(status)
                self._reaped(Ended(code if code >= 0 else None, -code if code < 0 else None))


def sender(pid: int, user: int) -> str:
    """Who sent a signal, in words: ``slurmstepd (process 77 of root)``."""
    if pid <= 0:
        return ""
    try:
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        name = ""
    try:
        owner = pwd.getpwuid(user).pw_name
    except KeyError:
        owner = f"user {user}"
    return f"{name} (process {pid} of {owner})" if name else f"process {pid} of {owner}"
