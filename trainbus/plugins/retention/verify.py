"""Whether a checkpoint, adapter or full model on the disk is whole: by the digests of its marker, and by what its files say of themselves.

A file that was cut off betrays itself also without a marker: a safetensors header tells where the data end, a torch file is a zip archive
whose directory stands at its end, an index names its shards.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from trainbus.bus.events import DECODE_ERRORS, MARKER
from trainbus.plugins.retention.recognition import PIN, WEIGHTS

CHUNK_BYTES = 1 << 20
MAX_HEADER_BYTES = 100 * 1024 * 1024
"""The limit of safetensors itself."""
MAX_JSON_BYTES = 64 * 1024 * 1024
"""Larger JSON files are not parsed: no checkpoint has any but a big tokenizer's."""
ZIPPED = (".pt", ".pth", ".bin")

Progress = Callable[[int], bool]
"""Called with the bytes read; False stops."""


class Stopped(Exception):  # noqa: N818 - it is no error
    """The reader was told to stop."""


class Verification(Struct, kw_only=True, frozen=True):
    """What was found.

    Args:
        kind: ``adapter``, ``model`` or empty: it has no weights.
        bytes: Size of all files.
        digest: Hex xxh3-128 over all files, as in a marker; empty when contents were not read.
        sealed: Whether it has a marker with digests.
        contents: Whether everything was read.
        faults: Why it is not whole; empty when it is.
    """

    path: str
    kind: str
    bytes: int
    digest: str = ""
    sealed: bool = False
    contents: bool = False
    faults: tuple[str, ...] = ()


def verify(path: Path, *, contents: bool = True, progress: Progress = lambda _: True) -> Verification:
    """Look whether a directory holds a whole checkpoint.

    Args:
        path: The directory.
        contents: Also read everything, for the digest and to compare it with the marker's.
        progress: See `Progress`.

    Raises:
        Stopped: ``progress`` said so.
    """
    if not path.is_dir():
        return Verification(path=str(path), kind="", bytes=0, faults=("it is no directory",))
    sizes = {relative: (path / relative).stat().st_size for relative in files_of(path)}
    marker, faults = _marker(path)
    digests: dict[str, str] = {}
    if contents:
        for relative in sizes:
            digests[relative] = digest_of(path / relative, progress)
    listed = marker.get("files", {}) if marker else {}
    faults += _against_marker(listed, sizes, digests)
    known = {fault.partition(" ")[0] for fault in faults}
    faults += [fault for relative in sizes if relative not in known for fault in _structure(path, relative, sizes)]
    kind = kind_of(path)
    if not kind:
        faults.append(f"there are no weights (one of {', '.join(WEIGHTS[:3])})")
    elif not (path / ("adapter_config.json" if kind == "adapter" else "config.json")).is_file():
        faults.append(f"{'adapter_config' if kind == 'adapter' else 'config'}.json is missing")
    order = [relative for relative in listed if relative in sizes] if marker else sorted(sizes)
    digest = whole_digest([(relative, sizes[relative], digests[relative]) for relative in order]) if contents else ""
    if marker and contents and not faults and not marker.get("thinned") and marker.get("digest") != digest:
        faults.append(f"{MARKER} was changed: its digest is not that of its files")
    return Verification(
        path=str(path),
        kind=kind,
        bytes=sum(sizes.values()),
        digest=digest,
        sealed=bool(marker),
        contents=contents,
        faults=tuple(faults),
    )


def kind_of(path: Path) -> str:
    """``adapter``, ``model``, or empty when there are no weights."""
    for name in WEIGHTS:
        if (path / name).is_file():
            return "adapter" if name.startswith("adapter") else "model"
    return ""


def files_of(path: Path) -> Iterator[str]:
    """Relative paths of all files that belong to the content: without marker, pin and what their writing leaves."""
    for child in sorted(path.rglob("*")):
        relative = child.relative_to(path).as_posix()
        if child.is_file() and relative not in (MARKER, PIN) and not child.name.startswith((f".{MARKER}.", f".{PIN}.")):
            yield relative


def digest_of(path: Path, progress: Progress = lambda _: True) -> str:
    """The hex xxh3-128 of a file. What was read is dropped from the page cache again: it belongs to the training."""
    import xxhash

    state = xxhash.xxh3_128()
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            state.update(chunk)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), done, len(chunk), os.POSIX_FADV_DONTNEED)
            done += len(chunk)
            if not progress(len(chunk)):
                raise Stopped
    return str(state.hexdigest())


def whole_digest(files: list[tuple[str, int, str]]) -> str:
    """The digest over files, each as path, bytes and digest, as the trainer's marker has it."""
    import xxhash

    whole = xxhash.xxh3_128()
    for relative, size, digest in files:
        whole.update(f"{relative}\0{size}\0{digest}\n".encode())
    return str(whole.hexdigest())


def _marker(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        marker = json.loads((path / MARKER).read_bytes())
    except FileNotFoundError:
        return {}, []
    except (OSError, *DECODE_ERRORS) as error:
        return {}, [f"{MARKER} can't be read: {error}"]
    if not isinstance(marker, dict) or not isinstance(marker.get("files"), dict):
        return {}, [f"{MARKER} lists no files"]
    return marker, []


def _against_marker(listed: dict[str, Any], sizes: dict[str, int], digests: dict[str, str]) -> list[str]:
    faults = []
    for relative, entry in listed.items():
        if relative not in sizes:
            faults.append(f"{relative} is missing")
        elif sizes[relative] != entry["bytes"]:
            faults.append(f"{relative} has {sizes[relative]:,} bytes instead of {entry['bytes']:,}")
        elif relative in digests and digests[relative] != entry["xxh3"]:
            faults.append(f"{relative} has changed")
    return faults


def _structure(path: Path, relative: str, sizes: dict[str, int]) -> Iterator[str]:
    file, size = path / relative, sizes[relative]
    try:
        if relative.endswith(".safetensors"):
            yield from _safetensors(file, relative, size)
        elif relative.endswith(ZIPPED) and size:
            if not zipfile.is_zipfile(file) and _begins_as_zip(file):
                yield f"{relative} was cut off: it has no directory at its end"
        elif relative.endswith(".json") and size <= MAX_JSON_BYTES:
            content = json.loads(file.read_bytes())
            if relative.endswith(".index.json") and isinstance(content, dict):
                shards = sorted(set(content.get("weight_map", {}).values()))
                yield from (f"{shard} is missing: {relative} names it" for shard in shards if shard not in sizes)
        if not size and relative.endswith((*ZIPPED, ".safetensors", ".json")):
            yield f"{relative} is empty"
    except (OSError, *DECODE_ERRORS) as error:
        yield f"{relative} can't be read: {error}"


def _safetensors(file: Path, relative: str, size: int) -> Iterator[str]:
    """Eight bytes with the header's length, the header, the data that its offsets span."""
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            yield f"{relative} was cut off: it has {size:,} bytes, its header alone would have {length:,}"
            return
        header = json.loads(content.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    whole = 8 + length + max(ends, default=0)
    if size != whole:
        yield f"{relative} was cut off: it has {size:,} bytes instead of {whole:,}" if size < whole else f"{relative} is too long"


def _begins_as_zip(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(2) == b"PK"
