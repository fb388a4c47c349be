"""One daemon for a state directory, for an inbox and for an output: two would train on the same files, or write into the same run."""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack, suppress
from pathlib import Path

from trainbus.errors import RefusedError

LOCK = ".trainbus.lock"
"""In the inbox and in the output; hidden, so that the inbox never takes it for data."""


def hold(stack: ExitStack, file: Path, what: str) -> None:
    """Hold a lock until ``stack`` is closed, or this process is gone, however it ends: a lock can't go stale.

    Raises:
        RefusedError: Somebody else has it; names the process.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = stack.enter_context(file.open("a+"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        pid = lock.read().strip() or "unknown"
        hint = "Drop files into its inbox, or stop it with SIGTERM or `trainbus control stop`."
        raise RefusedError(f"A trainer runs already in {what} (pid {pid}).", hint=hint, code="running") from None
    except OSError:  # a network mount without locks: the lock in the state directory has to do
        return
    with suppress(OSError):  # on a full disk it holds all the same, and only its name is missing
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
