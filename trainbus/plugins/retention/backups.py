"""Backups to another path or any fsspec address (``s3://``, ``gcs://``, ``sftp://``, ...): read back, and complete only with a manifest.

Object stores have no rename, so the manifest is written last: a directory without one is what a kill left of a backup, and is written over.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from trainbus.bus.events import DECODE_ERRORS
from trainbus.errors import ModelError
from trainbus.plugins.retention.copying import FileDigest, digests_of, sync_directory, sync_file
from trainbus.plugins.retention.verify import CHUNK_BYTES, files_of, verify, whole_digest
from trainbus.plugins.retention.versions import PARTIAL, differences, read_manifest

MANIFEST = "trainbus_backup.json"


class Backup(Struct, kw_only=True, frozen=True):
    """A backup's manifest."""

    name: str
    created: int
    digest: str
    files: dict[str, FileDigest]
    source: str = ""

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(entry.bytes for entry in self.files.values())


def back_up(source: Path, address: str, *, name: str = "") -> Backup:
    """Copy a model, checkpoint or version to ``ADDRESS/NAME`` and read it back. One that is there already is verified instead.

    Raises:
        ModelError: The source is not whole, another backup has the name, or what was read back differs.
        OSError: The other side failed; what is there has no manifest and counts as nothing.
    """
    name = name or source.name
    version = read_manifest(source)
    _require_none(
        differences(version.files, _present(source, version.files)) if version else verify(source).faults, f"{source} is not whole"
    )
    files = _present(source, dict.fromkeys(files_of(source)))
    digest = whole_digest([(relative, entry.bytes, entry.xxh3) for relative, entry in files.items()])
    system, root = _open(address)
    existing = _read(system, f"{root}/{name}")
    if existing is not None:
        if existing.digest != digest:
            raise ModelError(f"{address}/{name} is the backup of something else.", hint="Give it another --name.", file=str(source))
        check(address, name)
        return existing
    place = f"{root}/{name}"
    for relative in files:
        system.makedirs(f"{place}/{relative}".rpartition("/")[0], exist_ok=True)
        system.put_file(str(source / relative), f"{place}/{relative}")
    if "file" in system.protocol:
        for relative in files:
            sync_file(Path(place) / relative)
        sync_directory(Path(place))
    _require_none(differences(files, _remote(system, place, files)), f"What was read back from {address}/{name} differs")
    backup = Backup(name=name, created=time.time_ns(), digest=digest, files=files, source=str(source))
    system.pipe_file(f"{place}/{MANIFEST}", msgspec.json.format(msgspec.json.encode(backup), indent=1))
    return backup


def back_up_version(directory: Path, version: str, address: str) -> Backup:
    """Back up a version under the name that tells it from other models' versions: ``MODEL-v001``.

    Raises:
        ModelError, OSError: As `back_up`.
    """
    return back_up(directory / version, address, name=version_name(directory, version))


def version_name(directory: Path, version: str) -> str:
    """What the backup of a version is called."""
    return f"{directory.absolute().parent.name}-{version}"


def check(address: str, name: str) -> Backup:
    """Read a whole backup and compare it with its manifest.

    Raises:
        ModelError: It is missing or damaged.
    """
    system, root = _open(address)
    backup = _read(system, f"{root}/{name}")
    if backup is None:
        raise ModelError(f"{address} has no complete backup {name!r}.", hint=f"`trainbus checkpoints backups list {address}` shows all.")
    _require_none(differences(backup.files, _remote(system, f"{root}/{name}", backup.files)), f"The backup {address}/{name} is damaged")
    return backup


def listed(address: str) -> list[Backup]:
    """All complete backups, oldest first."""
    system, root = _open(address)
    if not system.exists(root):
        return []
    places = [str(entry["name"]) for entry in system.ls(root, detail=True) if entry["type"] == "directory"]
    return sorted((backup for place in places if (backup := _read(system, place)) is not None), key=lambda backup: backup.created)


def has(address: str, name: str, digest: str = "") -> bool:
    """Whether a complete backup of that name, and of these files, is there; by its manifest alone."""
    system, root = _open(address)
    found = _read(system, f"{root}/{name}")
    return found is not None and digest in ("", found.digest)


def restore(address: str, name: str, target: Path) -> Backup:
    """Fetch a backup; it appears under ``target`` whole, identical file by file, or not at all.

    Raises:
        ModelError: The place is taken, or the backup is missing or damaged.
    """
    if target.exists() or target.is_symlink():
        raise ModelError(f"{target} exists already.", hint="Choose another place.", file=str(target))
    system, root = _open(address)
    backup = _read(system, f"{root}/{name}")
    if backup is None:
        raise ModelError(f"{address} has no complete backup {name!r}.", hint=f"`trainbus checkpoints backups list {address}` shows all.")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f"{PARTIAL}{target.name}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for relative in backup.files:
            (partial / relative).parent.mkdir(parents=True, exist_ok=True)
            system.get_file(f"{root}/{name}/{relative}", str(partial / relative))
        _require_none(differences(backup.files, _present(partial, backup.files)), f"The backup {address}/{name} is damaged")
        sync_directory(partial)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return backup


def remove(address: str, name: str) -> None:
    """Delete a backup: its manifest first, so that no half one ever counts."""
    system, root = _open(address)
    system.rm_file(f"{root}/{name}/{MANIFEST}")
    system.rm(f"{root}/{name}", recursive=True)


def old_ones(address: str, *, days: float, keep: int, now: int) -> list[Backup]:
    """Complete backups older than so many days, without the ``keep`` newest."""
    backups = listed(address)
    older = [backup for backup in backups if now - backup.created > days * 86_400 * 10**9]
    newest = {backup.name for backup in backups[-keep:]} if keep else set()
    return [backup for backup in older if backup.name not in newest]


def _require_none(faults: Sequence[str], problem: str) -> None:
    if faults:
        raise ModelError(f"{problem}: {'; '.join(faults[:3])}.", hint="Take another one, or make it anew.", faults=list(faults))


def _open(address: str) -> tuple[Any, str]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:  # a package that this kind of address needs, or a kind that nobody knows
        hint = "A directory needs nothing; s3:// needs s3fs, gcs:// needs gcsfs, sftp:// needs paramiko: install it beside trainbus."
        raise ModelError(f"{address} can't be used: {error}.", hint=hint, address=address) from error
    return system, str(path).rstrip("/")


def _read(system: Any, place: str) -> Backup | None:
    try:
        return msgspec.json.decode(system.cat_file(f"{place}/{MANIFEST}"), type=Backup)
    except (FileNotFoundError, NotADirectoryError, *DECODE_ERRORS):
        return None


def _present(directory: Path, names: Any) -> dict[str, FileDigest]:
    return {relative: entry for relative, entry in digests_of(directory, names).items() if entry is not None}


def _remote(system: Any, place: str, names: Any) -> dict[str, FileDigest]:
    import xxhash

    found = {}
    for relative in names:
        state, size = xxhash.xxh3_128(), 0
        try:
            with system.open(f"{place}/{relative}", "rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    state.update(chunk)
                    size += len(chunk)
        except FileNotFoundError:
            continue
        found[relative] = FileDigest(size, str(state.hexdigest()))
    return found
