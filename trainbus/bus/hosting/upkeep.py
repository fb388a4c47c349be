"""Keeps the home directory within bounds, so that a server that runs for years needs nobody who cleans up.

What grows with time has a bound of its own: the journal (`bus.journal_max_age`, `bus.journal_max_bytes`, by the broker), each log
(`bus.log_bytes`, `bus.log_files`, by who writes it) and each spool (`bus.spool_bytes`). Here is the rest: all logs together, which
grow with the number of commands and of plugins that were once used, and files that a kill in the middle of a write has left.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from trainbus.bus.config import BusConfig
from trainbus.bus.spool import remove_stale_drafts

LEFTOVER_SECONDS = 3600.0
"""A temporary file of an atomic write older than this belongs to nobody: writing takes milliseconds."""


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """A file that went, and why."""

    path: str
    bytes: int
    reason: str


def tidy(root: Path, settings: BusConfig, *, dry_run: bool = False) -> list[Removed]:
    """Remove what is beyond the bounds; what went, oldest first. Called again it finds nothing to do.

    Args:
        root: The home directory.
        settings: ``logs_bytes``.
        dry_run: Only say what would go.
    """
    found = [*_leftovers(root), *_logs(root / "logs", settings.logs_bytes)]
    if dry_run:
        return found
    remove_stale_drafts(root)
    removed = []
    for one in found:
        with contextlib.suppress(OSError):  # somebody else was faster, or it isn't ours: the next time
            Path(one.path).unlink()
            removed.append(one)
    return removed


def _leftovers(root: Path) -> Iterator[Removed]:
    """What `write_atomically` and the making of a journal leave when they are killed."""
    begun = [*root.glob(".*.json.*"), *root.glob("keys/.*.*"), *root.glob("keys/remote/.*.*"), root / "journal.db.new"]
    for path in begun:
        with contextlib.suppress(OSError):
            status = path.stat(follow_symlinks=False)
            if path.is_file() and time.time() - status.st_mtime > LEFTOVER_SECONDS and not _in_use(path):
                yield Removed(path=str(path), bytes=status.st_size, reason="left by a process that was killed while it wrote")


def _logs(folder: Path, bound: int) -> Iterator[Removed]:
    """The oldest logs beyond ``bound`` bytes for all; never one that is being written."""
    files = []
    for path in [*folder.glob("*.log*"), *folder.glob("exec/*.log*")]:
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink():
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
    surplus = sum(size for _, size, _ in files) - bound
    for _, size, path in sorted(files):
        if surplus <= 0:
            return
        if not _in_use(path):
            surplus -= size
            yield Removed(path=str(path), bytes=size, reason=f"all logs together may have {bound} bytes (bus.logs_bytes)")


def _in_use(path: Path) -> bool:
    """Whether somebody has the file open for writing: `RotatingFile` holds a lock meanwhile."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False
