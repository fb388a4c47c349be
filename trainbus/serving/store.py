"""Models and adapters that were sent here: files by the digest of their content, so that nothing is sent twice.

STORE/blobs/XXH3          one file's content
STORE/parts/XXH3-BYTES    what has come of one so far
STORE/models/DIGEST/      hard links to blobs under their names, and trainbus_serve.json, written last
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from trainbus.bus.events import DECODE_ERRORS
from trainbus.bus.home import private_directory, write_atomically
from trainbus.errors import RefusedError

MANIFEST = "trainbus_serve.json"
HEX = re.compile(r"[0-9a-f]{32}")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
SERVED = (".safetensors", ".json", ".jinja", ".txt", ".model")
"""What answering needs; optimizer states, pickles and code are not taken."""

CHUNK_BYTES = 16 << 20
"""One chunk of an upload at most."""
FILES_MAX = 1_000
PART_SECONDS = 86_400.0
"""What has not grown for so long is not coming any more."""
READ_BYTES = 1 << 20


class Content(Struct, frozen=True):
    """One file of a checkpoint: its size, and the hex xxh3-128 of its content, as in a checkpoint's marker."""

    bytes: int
    xxh3: str


class Missing(Struct, frozen=True):
    """A file that is still to be sent, from ``received`` on."""

    name: str
    bytes: int
    xxh3: str
    received: int


class Manifest(Struct, kw_only=True):
    """What stands beside a model's files. ``names`` are those under which it may be asked for."""

    digest: str
    names: list[str]
    base: str = ""
    created: float = 0.0
    files: dict[str, Content]


class StoreStats(Struct, frozen=True, kw_only=True):
    """What is kept, and what came since the start."""

    models: int
    bytes: int
    limit_bytes: int
    received_bytes: int


class Store:
    """Thread-safe. Nothing outside its folder is ever written, whatever names it is told.

    Args:
        root: Its folder; made when it is missing.
        limit: Bytes that it may take.
    """

    def __init__(self, root: Path, limit: int) -> None:
        self.root = root
        self._limit = limit
        self._received = 0
        self._lock = threading.RLock()
        self._blobs, self._parts, self._models = (private_directory(root / name) for name in ("blobs", "parts", "models"))
        for part in self._parts.iterdir():
            if time.time() - part.stat().st_mtime > PART_SECONDS:
                part.unlink()
        for folder in self._models.iterdir():
            if not (folder / MANIFEST).is_file():  # it was being put together when the server ended
                shutil.rmtree(folder)
        self._sweep()

    def digest_of(self, files: Mapping[str, Content], claimed: str = "") -> str:
        """The digest over a list of files, as in a checkpoint's marker.

        Raises:
            RefusedError: It is not the one that is claimed, or the list is not sound.
        """
        if not files or len(files) > FILES_MAX:
            raise RefusedError(f"A model has 1 to {FILES_MAX} files, and here are {len(files)}.", code="invalid", param="files")
        state = _hasher()
        for name, content in files.items():
            if not HEX.fullmatch(content.xxh3) or content.bytes < 0:
                raise RefusedError(f"{name!r} has no xxh3-128 digest (32 hex digits) and size.", code="invalid", param="files")
            if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
                raise RefusedError(f"{name!r} can't be a file's name in a model.", code="invalid", param="files")
            state.update(f"{name}\0{content.bytes}\0{content.xxh3}\n".encode("utf-8", "replace"))
        found = str(state.hexdigest())
        if claimed not in ("", found):
            raise RefusedError(f"The files' digest is {found}, not {claimed}.", hint="Send the list as the marker has it.", code="conflict")
        return found

    def wanted(self, files: Mapping[str, Content]) -> dict[str, Content]:
        """Those of a list that answering needs."""
        return {name: content for name, content in files.items() if NAME.fullmatch(name) and name.endswith(SERVED) and name != MANIFEST}

    def missing(self, files: Mapping[str, Content]) -> list[Missing]:
        """Those of a list that are wanted, and not wholly here."""
        with self._lock:
            return [
                Missing(name, content.bytes, content.xxh3, self.received(content))
                for name, content in self.wanted(files).items()
                if not self._has(content)
            ]

    def received(self, content: Content) -> int:
        """Bytes of a file that are here."""
        if self._has(content):
            return content.bytes
        part = self._part(content)
        return part.stat().st_size if part.is_file() else 0

    def receive(self, content: Content, offset: int, chunk: bytes, digest: str = "") -> int:
        """Take the next chunk of a file; returns how much of it is here now. A chunk that is here already changes nothing.

        Raises:
            RefusedError: ``facts["code"]`` is ``conflict`` when it begins elsewhere than what is here ends (``facts["received"]``), or
                a digest is wrong; ``full`` when there is no room.
        """
        if not HEX.fullmatch(content.xxh3):
            raise RefusedError(f"{content.xxh3!r} is no xxh3-128 digest (32 hex digits).", code="invalid")
        if digest and digest != _digest(chunk):
            raise RefusedError("The chunk has changed on its way.", hint="Send it again.", code="conflict", received=self.received(content))
        with self._lock:
            here = self.received(content)
            if offset + len(chunk) <= here:
                return here
            if offset != here or here + len(chunk) > content.bytes:
                raise RefusedError(
                    f"{here} bytes of {content.bytes} are here; the chunk begins at {offset}.", hint="Go on from there.",
                    code="conflict", received=here,
                )  # fmt: skip
            if here == 0:
                self._need_room(content.bytes)
            try:
                with self._part(content).open("ab") as file:
                    file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise RefusedError(f"The store can't keep it: {error.strerror}.", hint="Free some space there.", code="full") from error
            self._received += len(chunk)
            here += len(chunk)
            if here == content.bytes:
                self._finish(content)
            return here

    def assemble(self, files: Mapping[str, Content], digest: str, name: str, base: str = "") -> Path:
        """The folder of a model whose wanted files are all here; ``name`` becomes one of its names.

        Raises:
            RefusedError: Files are missing (``facts["code"]``: ``conflict``).
        """
        with self._lock:
            folder = self._models / digest
            manifest = self._read(folder)
            if manifest is None:
                if self.missing(files):
                    raise RefusedError("Not all files are here.", hint="Send those that are missing.", code="conflict")
                folder.mkdir(mode=0o700, exist_ok=True)
                for file, content in self.wanted(files).items():
                    (folder / file).unlink(missing_ok=True)
                    if content.bytes:
                        os.link(self._blobs / content.xxh3, folder / file)
                    else:
                        (folder / file).touch()
                manifest = Manifest(digest=digest, names=[], created=time.time(), files=dict(files))
            if name not in manifest.names or (base and base != manifest.base):
                manifest.names = [*dict.fromkeys([*manifest.names, name])]
                manifest.base = base or manifest.base
            write_atomically(folder / MANIFEST, msgspec.json.encode(manifest))
            return folder

    def kept(self) -> Iterator[tuple[Path, Manifest]]:
        """The models that are here, the oldest first."""
        found = [(folder, manifest) for folder in self._models.iterdir() if (manifest := self._read(folder)) is not None]
        yield from sorted(found, key=lambda one: one[1].created)

    def remove(self, folder: Path) -> None:
        """Delete a model of the store, and the files that no other one has."""
        with self._lock:
            manifest = self._read(folder) if folder.parent == self._models else None
            if manifest is None:
                return
            (folder / MANIFEST).unlink()  # first: half a model is none
            shutil.rmtree(folder)
            for content in manifest.files.values():
                blob = self._blobs / content.xxh3
                if blob.is_file() and blob.stat().st_nlink == 1:
                    blob.unlink()

    def surplus(self, needed: int, candidates: Iterable[Path]) -> list[Path]:
        """Which of the candidates, in their order, have to go so that so many bytes fit."""
        over = self._size() + needed - self._limit
        chosen: list[Path] = []
        for folder in candidates:
            if over <= 0:
                break
            chosen.append(folder)
            over -= sum(file.stat().st_size for file in folder.iterdir() if file.stat().st_nlink == 2)  # of this model alone
        return chosen

    def stats(self) -> StoreStats:
        """What is here."""
        return StoreStats(models=sum(1 for _ in self.kept()), bytes=self._size(), limit_bytes=self._limit, received_bytes=self._received)

    def _finish(self, content: Content) -> None:
        part = self._part(content)
        state = _hasher()
        with part.open("rb") as file:
            while block := file.read(READ_BYTES):
                state.update(block)
        if state.hexdigest() != content.xxh3:
            part.unlink()
            raise RefusedError(
                f"The file's content is {state.hexdigest()}, not {content.xxh3}.",
                hint="Send it again from the beginning.",
                code="conflict",
                received=0,
            )
        part.replace(self._blobs / content.xxh3)

    def _need_room(self, needed: int) -> None:
        if self._size() + needed > self._limit:
            raise RefusedError(
                f"The store may take {self._limit} bytes, and has {self._size()}.", hint="Delete models, or raise --store-gb.", code="full"
            )

    def _size(self) -> int:
        return sum(file.stat().st_size for place in (self._blobs, self._parts) for file in place.iterdir())

    def _has(self, content: Content) -> bool:
        if content.bytes == 0:
            return True
        blob = self._blobs / content.xxh3
        return blob.is_file() and blob.stat().st_size == content.bytes

    def _part(self, content: Content) -> Path:
        return self._parts / f"{content.xxh3}-{content.bytes}"

    def _read(self, folder: Path) -> Manifest | None:
        try:
            return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
        except (OSError, *DECODE_ERRORS):
            return None

    def _sweep(self) -> None:
        """Contents that no model has, and that nobody has put together since yesterday."""
        for blob in self._blobs.iterdir():
            if blob.stat().st_nlink == 1 and time.time() - blob.stat().st_mtime > PART_SECONDS:
                blob.unlink()


def _hasher() -> Any:
    import xxhash

    return xxhash.xxh3_128()


def _digest(data: bytes) -> str:
    state = _hasher()
    state.update(data)
    return str(state.hexdigest())
