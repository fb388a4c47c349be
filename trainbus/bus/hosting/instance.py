"""One supervisor for each home: its lock, and a file that tells who runs, for when the broker can't.

HOME/up.lock    held (flock) while a supervisor lives; the kernel lets go of it however that ends
HOME/up.json    what the supervisor last knew of broker and plugins
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

import msgspec

from trainbus.bus import wire
from trainbus.bus.events import DECODE_ERRORS
from trainbus.bus.home import private_directory, write_atomically
from trainbus.errors import RefusedError


class Running(msgspec.Struct, kw_only=True):
    """The supervisor's own account. ``started`` is wall clock in ns, ``broker_error`` why the broker is away, if it is."""

    pid: int
    started: int
    config: str = ""
    state: str = "starting"
    broker: int | None = None
    broker_state: str = "starting"
    broker_restarts: int = 0
    broker_error: str = ""
    plugins: list[wire.PluginStatus] = msgspec.field(default_factory=list)


class InstanceLock:
    """Held while this process supervises ``root``.

    Raises:
        RefusedError: Another one does.
    """

    def __init__(self, root: Path) -> None:
        private_directory(root)
        self._fd = os.open(root / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = _pid_in(self._fd)
            os.close(self._fd)
            raise _already_runs(root, pid) from None
        with contextlib.suppress(OSError):  # the disk is full: the lock holds all the same, it only can't say who has it
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let the next one in."""
        os.close(self._fd)


def supervisor_pid(root: Path) -> int | None:
    """The living supervisor of ``root``; None when there is none. A lock file that was left behind is not held, so it can't mislead."""
    try:
        fd = os.open(root / "up.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _pid_in(fd)
    else:
        return None
    finally:
        os.close(fd)


def refuse_a_second(root: Path) -> None:
    """Say early what `InstanceLock` would say.

    Raises:
        RefusedError: A supervisor lives.
    """
    if (pid := supervisor_pid(root)) is not None:
        raise _already_runs(root, pid)


def _already_runs(root: Path, pid: int | None) -> RefusedError:
    who = f"supervisor pid {pid}" if pid is not None else "its pid is not known"
    problem = f"trainbus already runs in {root} ({who})."
    return RefusedError(problem, hint="See `trainbus status`; stop it with `trainbus down`.", code="running", pid=pid)


def write_running(root: Path, running: Running) -> None:
    """Replace the account."""
    write_atomically(root / "up.json", msgspec.json.encode(running))


def read_running(root: Path) -> Running | None:
    """The living supervisor's account; None when none lives or it has not written one yet."""
    pid = supervisor_pid(root)
    try:
        running = msgspec.json.decode((root / "up.json").read_bytes(), type=Running)
    except (OSError, *DECODE_ERRORS):
        return None
    return running if running.pid == pid else None


def _pid_in(fd: int) -> int | None:
    try:
        return int(os.pread(fd, 32, 0))
    except ValueError:
        return None
