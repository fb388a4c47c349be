"""Copies of files that are known to be identical: digested while they are written, and on the disk when the call returns."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from trainbus.plugins.retention.verify import CHUNK_BYTES, digest_of


class FileDigest(Struct, frozen=True):
    """One file: its size, and the hex xxh3-128 of its content."""

    bytes: int
    xxh3: str


def copy_file(source: Path, target: Path) -> FileDigest:
    """Copy a file; the digest is of what was read.

    Raises:
        OSError: It can't be read or written.
    """
    import xxhash

    target.parent.mkdir(parents=True, exist_ok=True)
    state, size = xxhash.xxh3_128(), 0
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            state.update(chunk)
            writer.write(chunk)
            size += len(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return FileDigest(size, str(state.hexdigest()))


def digests_of(directory: Path, names: Iterable[str]) -> dict[str, FileDigest | None]:
    """The digests of files as they lie on the disk; None for those that are missing."""
    found: dict[str, FileDigest | None] = {}
    for name in names:
        path = directory / name
        try:
            found[name] = FileDigest(path.stat().st_size, digest_of(path))
        except FileNotFoundError:
            found[name] = None
    return found


def sync_file(path: Path) -> None:
    """Bring a file's content to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Bring a directory's entries, and those of the directories in it, to the disk."""
    for directory, _, _ in os.walk(path):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
