"""Files that are dropped onto the page, on their way into the trainer's inbox: named safely, bounded, whole or not there at all."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import time
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from trainbus.bus.home import read_inbox
from trainbus.plugins.web.config import WebConfig
from trainbus.plugins.web.steering import RefusedRequest

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".parquet")
"""What the trainer takes from its inbox; a test compares."""

AT_ONCE = 4
"""Uploads at the same time; more are refused."""

FREE_BYTES = 1024**3
"""So much of the disk stays free: checkpoints may go to the same one."""

STALL_SECONDS = 60.0
"""An upload from which nothing comes for so long is given up."""

LONGEST_NAME = 150
"""Characters: file systems take 255 bytes, and the queue adds an id."""

UNFINISHED = ".uploads"
"""The folder in the inbox where files grow; the trainer passes over hidden folders."""

OLD_SECONDS = 86_400
"""What was left there for so long, by a server that was killed, is removed."""


class Uploads(Struct, frozen=True):
    """What may be dropped: at most ``largest`` bytes, with one of these ``endings``."""

    largest: int
    endings: tuple[str, ...] = ENDINGS


class Dropped(Struct, frozen=True):
    """A file that is now in the inbox."""

    name: str
    bytes: int
    priority: str


class Dropping:
    """Takes files for the inbox that the settings name, else for that of the trainer of this machine's state directory."""

    def __init__(self, config: WebConfig) -> None:
        self._config = config
        self._under_way = 0

    def offered(self) -> Uploads | None:
        """What may be dropped; None when no inbox is known, or no upload is wanted."""
        return Uploads(largest=self._config.upload_bytes) if self._config.upload_bytes and self._inbox() is not None else None

    def _inbox(self) -> Path | None:
        folder = Path(self._config.inbox).expanduser() if self._config.inbox else read_inbox()
        return folder if folder is not None and folder.is_dir() else None

    async def take(self, name: str, priority: str, length: int | None, chunks: AsyncIterator[bytes]) -> Dropped:
        """Write the file and put it into the inbox in one moment.

        Args:
            length: What the request says of its size; None when it doesn't.

        Raises:
            RefusedRequest: It can't be taken; nothing of it is left.
        """
        inbox = self._inbox()
        if inbox is None or not self._config.upload_bytes:
            raise RefusedRequest(
                409, "No inbox is known here. Start `trainbus train --inbox DIR` on this machine, or set plugin.web.inbox to its folder."
            )
        if priority not in ("high", "normal", "low"):
            raise RefusedRequest(400, "The priority is high, normal or low.")
        name = safe_name(name)
        self._check_size(length or 0, inbox)
        if self._under_way >= AT_ONCE:
            raise RefusedRequest(503, f"{AT_ONCE} files are being taken already; try again when one is done.")
        self._under_way += 1
        try:
            part = await asyncio.to_thread(_part, inbox)
            try:
                size = await self._write(part, inbox, chunks)
                placed = await asyncio.to_thread(_place, part, inbox if priority == "normal" else inbox / priority, name)
            finally:
                await asyncio.to_thread(part.unlink, missing_ok=True)
        except OSError as error:
            raise RefusedRequest(507, f"The inbox {inbox} can't be written: {error.strerror}.") from error
        finally:
            self._under_way -= 1
        return Dropped(name=placed, bytes=size, priority=priority)

    async def _write(self, part: Path, inbox: Path, chunks: AsyncIterator[bytes]) -> int:
        size = 0
        with part.open("wb") as file:
            try:
                while (chunk := await _next(chunks)) is not None:
                    size += len(chunk)
                    self._check_size(size, inbox)
                    await asyncio.to_thread(file.write, chunk)
            except TimeoutError:
                raise RefusedRequest(408, f"Nothing came for {STALL_SECONDS:.0f} s.") from None
            if not size:
                raise RefusedRequest(400, "The file is empty.")
            await asyncio.to_thread(_flush, file)
        return size

    def _check_size(self, size: int, inbox: Path) -> None:
        if size > self._config.upload_bytes:
            raise RefusedRequest(413, f"At most {self._config.upload_bytes:,} bytes are taken (plugin.web.upload_bytes).")
        if shutil.disk_usage(inbox).free < FREE_BYTES:
            raise RefusedRequest(507, f"The disk of the inbox has less than {FREE_BYTES:,} bytes free.")


def safe_name(name: str) -> str:
    """The last part of a name, without what a shell, a terminal or a path would take for more than a letter.

    Raises:
        RefusedRequest: It has none of the endings that the trainer takes.
    """
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rpartition("/")[2]
    ending = next((ending for ending in sorted(ENDINGS, key=len, reverse=True) if last.lower().endswith(ending)), "")
    stem = "".join(letter if letter.isalnum() or letter in "-_.+" else "_" for letter in last[: len(last) - len(ending)]).lstrip("._-")
    while len(stem.encode("utf-8", "replace")) > LONGEST_NAME:
        stem = stem[:-1]
    if not ending or not stem:
        raise RefusedRequest(415, f"The trainer takes files with a name that ends in {', '.join(ENDINGS)}.")
    return stem + ending


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    async with asyncio.timeout(STALL_SECONDS):
        return await anext(chunks, None)


def _part(inbox: Path) -> Path:
    """A new empty file that nobody else writes, where the trainer doesn't look."""
    folder = inbox / UNFINISHED
    folder.mkdir(exist_ok=True)
    for left in folder.iterdir():
        if time.time() - left.lstat().st_mtime > OLD_SECONDS:
            left.unlink(missing_ok=True)
    part = folder / secrets.token_hex(8)
    part.touch(exist_ok=False)
    return part


def _place(part: Path, folder: Path, name: str) -> str:
    """Give the whole file its name in the folder, without replacing another; returns the name."""
    folder.mkdir(exist_ok=True)
    stem, dot, ending = name.partition(".")
    number = 1
    while True:
        free = name if number == 1 else f"{stem}-{number}{dot}{ending}"
        try:
            os.link(part, folder / free)
        except FileExistsError:
            number += 1
            continue
        return free


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
