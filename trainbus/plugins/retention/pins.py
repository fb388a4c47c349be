"""Pins: a file in the checkpoint itself says that it stays. It needs no bus, holds for every reader of the disk, and moves with it.

A pin that is set while its checkpoint is being put into the trash is seen there, and the checkpoint comes back (see `trash`).
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from msgspec import Struct

from trainbus.bus.events import DECODE_ERRORS
from trainbus.plugins.retention.recognition import PIN, NotACheckpoint, opened


class Pin(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """Who pinned a checkpoint, why and when (ns since the epoch)."""

    who: str = ""
    why: str = ""
    time: int = 0

    def __str__(self) -> str:
        return f"pinned{f' by {self.who}' if self.who else ''}{f': {self.why}' if self.why else ''}"


def pin(path: Path, content: Pin) -> None:
    """Pin a checkpoint directory; returns when it is on the disk. Pinning again replaces who and why.

    Raises:
        NotACheckpoint: There is no such directory.
        OSError: The disk refuses.
    """
    try:
        with opened(path) as directory:
            handle = os.open(f".{PIN}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644, dir_fd=directory)
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(content) + b"\n")
                file.flush()
                os.fsync(handle)
            os.rename(f".{PIN}.new", PIN, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
            if not _same(path, directory):
                raise NotACheckpoint(f"{path} was moved while it was being pinned.", hint="Restore it first.", path=str(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotACheckpoint(f"There is no checkpoint directory {path}.", path=str(path)) from error


def unpin(path: Path) -> bool:
    """Take the pin away; False when there was none."""
    try:
        (path / PIN).unlink()
    except FileNotFoundError:
        return False
    return True


def pin_of(path: Path) -> Pin | None:
    """The pin of a directory; one that can't be read holds all the same."""
    try:
        return msgspec.json.decode((path / PIN).read_bytes(), type=Pin)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, *DECODE_ERRORS):
        return Pin()


def _same(path: Path, directory: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(directory))
    except OSError:
        return False
