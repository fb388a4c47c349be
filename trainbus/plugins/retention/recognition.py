"""Whether a directory is the checkpoint that a record speaks of: looked at through open handles, never through a symbolic link."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainbus.bus.events import DECODE_ERRORS, MARKER
from trainbus.errors import TrainbusError
from trainbus.plugins.retention.records import Record

PIN = "trainbus_pin.json"
STATE_FILE = "trainer_state.json"
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
NAME = re.compile(r"checkpoint-(\d+)")
MAX_MARKER_BYTES = 16 * 1024 * 1024
"""A marker lists the files of a checkpoint; anything larger is none."""


class NotACheckpoint(TrainbusError):  # noqa: N818 - a finding about the disk
    """What is on the disk is not the checkpoint that the record speaks of, or is not to be touched; it is left alone."""

    code = "not_a_checkpoint"


def step_of(name: str) -> int | None:
    """The number in ``checkpoint-N``, also with leading zeros; None for other names."""
    match = NAME.fullmatch(name)
    return int(match[1]) if match else None


def check_place(path: Path, roots: Sequence[str] = ()) -> None:
    """Refuse a path that is relative, hidden, reached through a symbolic link, or outside the roots.

    Raises:
        NotACheckpoint: It says which.
    """
    if not path.is_absolute() or ".." in path.parts or path.name.startswith("."):
        raise NotACheckpoint(f"{path} is no absolute path of a visible directory.", path=str(path))
    real = os.path.realpath(path)
    if real != str(path):
        raise NotACheckpoint(f"{path} is reached through a symbolic link (it is {real}).", path=str(path))
    allowed = [os.path.realpath(Path(root).expanduser()) for root in roots]
    if allowed and not any(path.is_relative_to(root) and str(path) != root for root in allowed):
        raise NotACheckpoint(f"{path} is outside {', '.join(allowed)}.", hint="See plugin.retention.roots.", path=str(path))


@contextmanager
def opened(directory: Path) -> Iterator[int]:
    """A handle of a directory that is no symbolic link."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield handle
    finally:
        os.close(handle)


def recognise(record: Record, parent: int) -> None:
    """Look whether the name of the record's path in the open directory ``parent`` is the record's checkpoint, and not pinned.

    A checkpoint of ours names itself in its marker; one of another trainer is known by name, state file and weights.

    Raises:
        NotACheckpoint: It is another one, none at all, or pinned.
    """
    path = Path(record.path)
    try:
        found = os.open(path.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        raise NotACheckpoint(f"{path} is no directory: {error.strerror}.", path=str(path)) from error
    try:
        files = set(os.listdir(found))  # noqa: PTH208 - by handle
        if PIN in files:
            raise NotACheckpoint(f"{path} is pinned.", hint=f"`trainbus checkpoints unpin {path}` lets it go.", path=str(path))
        if MARKER in files:
            identity = read_marker_at(path, found).get("id")
            if identity != record.id:
                raise NotACheckpoint(f"{path} holds {identity!r} by now, not {record.id!r}.", path=str(path), found=identity)
        elif step_of(path.name) != record.step or STATE_FILE not in files or files.isdisjoint(WEIGHTS):
            problem = f"{path} has neither {MARKER} nor the files of a Hugging Face checkpoint of step {record.step}."
            raise NotACheckpoint(problem, path=str(path))
    finally:
        os.close(found)


def read_marker_at(path: Path, directory: int) -> dict[str, Any]:
    """The marker in an open directory; ``path`` is what messages call it.

    Raises:
        NotACheckpoint: It can't be read.
    """
    try:
        handle = os.open(MARKER, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
        with os.fdopen(handle, "rb") as file:
            marker = json.loads(file.read(MAX_MARKER_BYTES))
    except (OSError, *DECODE_ERRORS) as error:
        raise NotACheckpoint(f"{path / MARKER} can't be read: {error}", path=str(path)) from error
    return marker if isinstance(marker, dict) else {}


def vanished(record: Record) -> bool:
    """Whether the directory is gone while the one that held it is still there (and not just unmounted)."""
    path = Path(record.path)
    return path.parent.is_dir() and not os.path.lexists(path)
