"""A checkpoint's files to a server, by the digests of their contents: only what it lacks, in chunks that go on where they were cut."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import msgspec
from msgspec import Struct

from trainbus.bus.events import DECODE_ERRORS, MARKER
from trainbus.plugins.inference.faults import AskError, Fault
from trainbus.plugins.inference.http import Line, decoded

CHUNK_BYTES = 4 * 1024 * 1024
"""One chunk at most: small enough to be sent again when the connection breaks."""
CONFLICT = 409
CONFLICTS = 3
"""Times that the server may say of one file that it has more or less of it than was thought."""


class Content(Struct, frozen=True):
    """One file: its size, and the hex xxh3-128 of its content."""

    bytes: int
    xxh3: str


class Contents(Struct, frozen=True):
    """A checkpoint's files by their names, and the digest over all of them; empty where nothing states it."""

    files: dict[str, Content]
    digest: str = ""


class Missing(Struct, frozen=True):
    """A file that the server lacks, from ``received`` on."""

    name: str
    received: int = 0


class Registered(Struct, frozen=True):
    """``state``: ready, or incomplete: then ``missing`` is to be sent."""

    state: str
    missing: tuple[Missing, ...] = ()
    chunk_bytes: int = CHUNK_BYTES


class Received(Struct, frozen=True):
    """How much of a file the server has."""

    received: int


def contents_of(folder: Path) -> Contents:
    """What a checkpoint holds: as its marker says, or, where it has none, by reading all of it.

    Raises:
        OSError: It can't be read.
        AskError: The marker is damaged, or without one xxhash is needed and missing.
    """
    try:
        raw = (folder / MARKER).read_bytes()
    except FileNotFoundError:
        if not folder.is_dir():
            raise
        return Contents({str(path.relative_to(folder)): _digested(path) for path in sorted(folder.rglob("*")) if path.is_file()})
    try:
        return msgspec.json.decode(raw, type=Contents)
    except DECODE_ERRORS as error:
        raise AskError(Fault.REFUSED, f"{folder / MARKER} is damaged: {error}.") from error


def _digested(path: Path) -> Content:
    try:
        import xxhash
    except ImportError as error:
        problem = f"{path.parent} has no {MARKER}, so its files must be read and digested, which needs xxhash: pip install xxhash."
        raise AskError(Fault.REFUSED, problem) from error
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, xxhash.xxh3_128)
        return Content(file.tell(), digest.hexdigest())


def file_of(folder: Path, name: str) -> Path:
    """One of a checkpoint's files. A marker may come from anywhere: what it names outside the checkpoint is not read.

    Raises:
        AskError: It lies outside.
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise AskError(Fault.REFUSED, f"{folder / name} lies outside the checkpoint: it is not sent to anybody.")
    return path


def left(contents: Contents, told: Registered, server: str) -> int:
    """Bytes that the server lacks. It speaks of nothing but files of this checkpoint, whatever it says.

    Raises:
        AskError: It names another one.
    """
    if unknown := next((missing.name for missing in told.missing if missing.name not in contents.files), None):
        raise AskError(Fault.WRONG, f"{server} asks for {unknown!r}, which is no file of the checkpoint.")
    sizes = [(contents.files[missing.name].bytes, missing.received) for missing in told.missing]
    return sum(size - min(max(received, 0), size) for size, received in sizes)


async def send(line: Line, folder: Path, contents: Contents, told: Registered, *, timeout: float) -> None:
    """Send what the server lacks. It is asked for nothing but files of this checkpoint, whatever it says.

    Args:
        timeout: Seconds for one chunk.

    Raises:
        AskError: It can't be sent, or read.
    """
    size = max(1, min(CHUNK_BYTES, told.chunk_bytes))
    for missing in told.missing:
        content = contents.files.get(missing.name)
        if content is None:
            raise AskError(Fault.WRONG, f"{line.url} asks for {missing.name!r}, which is no file of {folder}.")
        await _send_file(line, file_of(folder, missing.name), content, missing.received, size, timeout)


async def _send_file(line: Line, path: Path, content: Content, received: int, size: int, timeout: float) -> None:
    address = f"blobs/{content.xxh3}?bytes={content.bytes}"
    conflicts, sent = 0, False
    while received < content.bytes or not sent:
        chunk = await asyncio.to_thread(_read, path, max(0, received), size)
        if not chunk and content.bytes:
            raise AskError(Fault.REFUSED, f"{path} is shorter than its marker says: it was changed since it was saved.")
        try:
            raw = await line.request("PUT", f"{address}&offset={received}", timeout=timeout, data=chunk)
        except AskError as error:
            conflicts += 1
            if error.status != CONFLICT or conflicts > CONFLICTS:
                raise AskError(
                    Fault.AWAY if error.fault is Fault.AWAY else Fault.TROUBLE, error.problem, status=error.status, reason=error.reason
                ) from error
            # Another sender, or we before a cut, got further: go on from where the server is.
            received = decoded(await line.request("GET", address, timeout=timeout), Received, "an upload's progress").received
            continue
        sent, before = True, received
        received = decoded(raw, Received, "an upload's progress").received
        if not before < received <= content.bytes and content.bytes:
            raise AskError(Fault.WRONG, f"{line.url} was sent {path.name} from byte {before} on, and says that it has {received} bytes.")


def _read(path: Path, offset: int, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)
    except OSError as error:
        raise AskError(Fault.REFUSED, f"{path} can't be read: {error.strerror or error}.") from error
