"""The disk as it is at the moment of action: recognise a checkpoint, rename it into the trash, empty the trash.

Everything that removes a directory from its place works relative to an open handle of its parent, so a path that is replaced by a
symbolic link meanwhile leads nowhere else. A directory in the trash is no checkpoint any more, whole or half emptied.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from trainbus.errors import TrainbusError
from trainbus.plugins.retention.records import Record

MARKER = "trainbus_checkpoint.json"
TRASH = ".trash"
STATE_FILE = "trainer_state.json"
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
MAX_MARKER_BYTES = 16 * 1024 * 1024
"""A marker lists the files of a checkpoint; anything larger is none."""


class NotACheckpoint(TrainbusError):  # noqa: N818 - a finding about the disk
    """What is on the disk is not the checkpoint that the record speaks of; it is left alone."""

    code = "not_a_checkpoint"


def vanished(record: Record) -> bool:
    """Whether the directory is gone while the one that held it is still there (and not just unmounted)."""
    path = Path(record.path)
    return path.parent.is_dir() and not os.path.lexists(path)


def trash_place(record: Record) -> Path:
    """Where a checkpoint goes: beside the others, so that the rename stays on one file system; known before it is done."""
    path = Path(record.path)
    return path.parent / TRASH / f"{path.name}-{re.sub(r'[^A-Za-z0-9._-]', '_', record.id)[-80:]}-{record.time}"


def recognise(record: Record, roots: Sequence[str] = ()) -> None:
    """Look whether the disk holds the checkpoint that a record speaks of.

    Raises:
        NotACheckpoint: It holds something else, or holds it in a place that must not be touched.
    """
    path = Path(record.path)
    _check_place(path, roots)
    with _opened(path.parent) as parent:
        _recognise(record, path, parent)


def move_to_trash(record: Record, roots: Sequence[str] = ()) -> Path:
    """Recognise a checkpoint once more and rename it into the trash, at once and as a whole. The caller holds the exclusive lease.

    Raises:
        NotACheckpoint: The disk holds something else; nothing was touched.
        OSError: The disk failed; the checkpoint is whole in its place or whole in the trash.
    """
    path, place = Path(record.path), trash_place(record)
    _check_place(path, roots)
    with _opened(path.parent) as parent:
        _recognise(record, path, parent)
        with suppress(FileExistsError):
            os.mkdir(TRASH, mode=0o700, dir_fd=parent)
        if not stat.S_ISDIR(os.stat(TRASH, dir_fd=parent, follow_symlinks=False).st_mode):
            raise NotACheckpoint(f"{place.parent} is in the way: it is no directory.", path=str(place.parent))
        os.rename(path.name, f"{TRASH}/{place.name}", src_dir_fd=parent, dst_dir_fd=parent)
        os.fsync(parent)
    return place


def remove(place: Path) -> None:
    """Delete one entry of a trash for good. Does nothing when it is gone already.

    Raises:
        OSError: It could not be deleted, wholly or in part; it can be tried again.
    """
    if place.parent.name != TRASH or place.parent.is_symlink() or place.is_symlink() or not place.is_dir():
        return
    shutil.rmtree(place)


def _check_place(path: Path, roots: Sequence[str]) -> None:
    if not path.is_absolute() or ".." in path.parts or path.name.startswith("."):
        raise NotACheckpoint(f"{path} is no absolute path of a visible directory.", path=str(path))
    real = os.path.realpath(path)
    if real != str(path):
        raise NotACheckpoint(f"{path} is reached through a symbolic link (it is {real}).", path=str(path))
    allowed = [os.path.realpath(Path(root).expanduser()) for root in roots]
    if allowed and not any(path.is_relative_to(root) and str(path) != root for root in allowed):
        raise NotACheckpoint(f"{path} is outside {', '.join(allowed)}.", hint="See plugin.retention.roots.", path=str(path))


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield handle
    finally:
        os.close(handle)


def _recognise(record: Record, path: Path, parent: int) -> None:
    """By its marker; a checkpoint of another trainer by its name, state file and weights."""
    try:
        found = os.open(path.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        raise NotACheckpoint(f"{path} is no directory: {error.strerror}.", path=str(path)) from error
    try:
        files = set(os.listdir(found))  # noqa: PTH208 - by handle
        if MARKER in files:
            identity = _identity(path, found)
            if identity != record.id:
                raise NotACheckpoint(f"{path} holds {identity!r} by now, not {record.id!r}.", path=str(path), found=identity)
        elif path.name != f"checkpoint-{record.step}" or STATE_FILE not in files or files.isdisjoint(WEIGHTS):
            problem = f"{path} has neither {MARKER} nor the files of a Hugging Face checkpoint of step {record.step}."
            raise NotACheckpoint(problem, path=str(path))
    finally:
        os.close(found)


def _identity(path: Path, directory: int) -> object:
    try:
        handle = os.open(MARKER, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
        with os.fdopen(handle, "rb") as file:
            marker = json.loads(file.read(MAX_MARKER_BYTES))
    except (OSError, ValueError) as error:
        raise NotACheckpoint(f"{path / MARKER} can't be read: {error}", path=str(path)) from error
    return marker.get("id") if isinstance(marker, dict) else None
