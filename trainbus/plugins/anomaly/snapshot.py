"""Keeps a checkpoint by hard link (or reflink, or copy) before anything can delete it.

A snapshot appears under its final name whole or not at all: it is built under a hidden name beside it and renamed. Taking it
again (the alert came twice) finds it there. Only regular files and directories are taken; a symbolic link stays the link that it is.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from trainbus.bus.events import DECODE_ERRORS, MARKER, Alert
from trainbus.errors import TrainbusError
from trainbus.plugins.anomaly.memory import Kept

METADATA = "metadata.json"
EVENTS = "events.jsonl"
NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES})
"""Errors after which a file is cloned or copied instead: another file system, one without hard links, too many of them."""
FICLONE = 0x40049409
"""The ioctl of Linux that makes a file share another one's blocks until one of them is written (linux/fs.h): Btrfs, XFS, bcachefs, ZFS.
It also works from one subvolume to another, where hard links don't."""


class SnapshotRefused(TrainbusError):  # noqa: N818 - nothing is wrong with the program: the world does not allow a snapshot
    """The checkpoint can't be kept; the problem says why."""

    code = "snapshot"


def snapshot_root(checkpoint: Kept, directory: str = "") -> Path:
    """The directory of all snapshots: the configured one, else ``snapshots/`` beside the folder that holds the checkpoint."""
    return Path(directory).expanduser() if directory else Path(checkpoint.path).parent.parent / "snapshots"


def snapshot_path(alert: Alert, checkpoint: Kept, directory: str = "", *, after: bool = False) -> Path:
    """Where the snapshot for an alert goes: the same alert always gives the same place."""
    root = snapshot_root(checkpoint, directory)
    stamp = datetime.fromtimestamp(alert.time // 1_000_000_000, UTC).strftime("%Y%m%dT%H%M%SZ")
    return root / _safe(alert.run) / _safe(f"anomaly_{stamp}_{alert.id.partition(':')[0]}_step{alert.step}" + ("_after" if after else ""))


def keep(checkpoint: Kept, target: Path, metadata: dict[str, Any], around: bytes = b"", *, min_free_bytes: int) -> Path:
    """Link (or copy) a checkpoint to ``target`` with metadata.json and events.jsonl beside it. The caller holds the lease.

    Args:
        checkpoint: What is kept.
        target: Where to; when a whole snapshot is there already, nothing is done.
        metadata: See `trainbus.plugins.anomaly.evidence`.
        around: The events around the incident, one JSON object a line.
        min_free_bytes: So much must stay free on the disk.

    Returns:
        The target.

    Raises:
        SnapshotRefused: The checkpoint is not what it was announced as, or the disk is too full.
        OSError: The disk failed; nothing is left under the final name.
    """
    source = Path(checkpoint.path)
    if (target / METADATA).is_file():
        return target
    _recognise(source, checkpoint)
    target.parent.mkdir(parents=True, exist_ok=True)
    same_disk = target.parent.stat().st_dev == source.stat().st_dev
    needed = min_free_bytes + (0 if same_disk else _size(source))
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise SnapshotRefused(
            f"{target.parent} has {free:,} bytes free, {needed:,} are needed for a snapshot.",
            hint="Free some space, or lower plugin.anomaly.snapshot.min_free_bytes.",
            free=free,
            needed=needed,
        )
    partial = target.parent / f".partial-{target.name}"
    shutil.rmtree(partial, ignore_errors=True)  # of an earlier try that was killed
    try:
        shutil.copytree(source, partial, symlinks=True, copy_function=link_or_copy)
        if around:
            _write_durably(partial / EVENTS, around)
        _write_durably(partial / METADATA, _json({**metadata, "snapshot": target.name}))
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _sync_directory(target.parent)
    return target


def _recognise(source: Path, checkpoint: Kept) -> None:
    if source.is_symlink() or not source.is_dir():
        raise SnapshotRefused(f"{source} is no directory any more.", path=str(source))
    try:
        found = json.loads((source / MARKER).read_bytes()).get("id")
    except FileNotFoundError:
        return  # a checkpoint of another trainer, announced by its event
    except (OSError, AttributeError, *DECODE_ERRORS) as error:
        raise SnapshotRefused(f"{source / MARKER} can't be read: {error}", path=str(source)) from error
    if found != checkpoint.id:
        raise SnapshotRefused(f"{source} now holds {found!r} instead of {checkpoint.id!r}.", path=str(source), found=found)


def add_events(target: Path, around: bytes) -> bool:
    """Replace a snapshot's events.jsonl at once or not at all; False when the snapshot is gone."""
    partial = target / f".partial-{EVENTS}"
    try:
        _write_durably(partial, around)
        partial.replace(target / EVENTS)
    except FileNotFoundError:
        return False
    _sync_directory(target)
    return True


def link_or_copy(source: str, target: str) -> None:
    """One file: a second name of it, else a clone of its blocks, else a copy."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        if not _clone(source, target):
            shutil.copyfile(source, target)
        shutil.copystat(source, target)
        with Path(target).open("rb") as file:
            os.fsync(file.fileno())


def _clone(source: str, target: str) -> bool:
    """Share the blocks of ``source``; False where the file system does not offer that."""
    with Path(source).open("rb") as old, Path(target).open("wb") as new:
        try:
            fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
        except OSError:
            return False  # whatever it says: a copy is always possible, or fails with a better reason
    return True


def _size(directory: Path) -> int:
    return sum(child.stat().st_size for child in directory.rglob("*") if child.is_file())


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _json(metadata: dict[str, Any]) -> bytes:
    """Valid JSON: a NaN or an infinity becomes null, and its path is listed with its name under ``non_finite``."""
    content = msgspec.to_builtins(metadata)
    content["non_finite"] = dict(_non_finite(content, ""))
    return msgspec.json.format(msgspec.json.encode(content), indent=2)


def _non_finite(value: Any, path: str) -> list[tuple[str, str]]:
    if isinstance(value, float) and not math.isfinite(value):
        return [(path, str(value))]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return [found for key, child in items for found in _non_finite(child, f"{path}.{key}" if path else str(key))]


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".") or "_"
