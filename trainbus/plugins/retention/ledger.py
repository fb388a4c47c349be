"""The ledger of deletions: one line of JSON for each step, on the disk before the step is taken."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from trainbus.plugins.retention.records import Record


class Entry(Struct, kw_only=True, omit_defaults=True):
    """One line: what is about to happen (``trashing``) or has happened (``emptied``), to what, and why."""

    time: int
    action: str
    path: str
    id: str = ""
    run: str = ""
    step: int = 0
    bytes: int | None = None
    digest: str = ""
    reason: str = ""
    trash: str = ""


class Ledger:
    """An append-only JSONL file; a torn last line, left by a kill, is passed over when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def record(self, action: str, record: Record, *, time: int, reason: str, trash: str = "") -> None:
        """Write a line about a checkpoint; returns when it is on the disk."""
        self.write(
            Entry(
                time=time,
                action=action,
                path=record.path,
                id=record.id,
                run=record.run,
                step=record.step,
                bytes=record.bytes,
                digest=record.digest,
                reason=reason,
                trash=trash,
            )
        )

    def write(self, entry: Entry) -> None:
        """Write a line; returns when it is on the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            end = os.fstat(handle).st_size
            torn = end > 0 and os.pread(handle, 1, end - 1) != b"\n"
            os.write(handle, b"\n" * torn + msgspec.json.encode(entry) + b"\n")
            os.fsync(handle)
        finally:
            os.close(handle)

    def entries(self) -> Iterator[Entry]:
        """All lines, oldest first."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for line in file:
                try:
                    yield msgspec.json.decode(line, type=Entry)
                except msgspec.DecodeError:
                    continue

    def unemptied(self) -> list[Path]:
        """What was put into a trash and not yet deleted for good, as far as the ledger tells: it is written before the disk changes."""
        places: dict[str, None] = {}
        for entry in self.entries():
            if entry.action == "trashing" and entry.trash:
                places[entry.trash] = None
            elif entry.action == "emptied":
                places.pop(entry.trash, None)
        return [Path(place) for place in places]

    def why_deleted(self, record: Record) -> str | None:
        """The reason for which this plugin began to delete a checkpoint; None when it never did."""
        return next(
            (entry.reason for entry in reversed(list(self.entries())) if entry.id == record.id and entry.action == "trashing"), None
        )
