"""Numbered versions of a model: copies with digests, that appear whole under their name or not at all.

DIR/v001/                        the files, and MANIFEST with their digests and where they came from
DIR/latest                       a symbolic link to the newest
DIR/.partial-v002/               what a kill left of a copy; the next promotion removes it
DIR/.trash/                      deleted versions, as for checkpoints
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct, field

from trainbus.bus.events import DECODE_ERRORS, MARKER
from trainbus.errors import ModelError
from trainbus.plugins.retention.copying import FileDigest, copy_file, digests_of, sync_directory
from trainbus.plugins.retention.recognition import PIN, NotACheckpoint
from trainbus.plugins.retention.records import Record
from trainbus.plugins.retention.thinning import is_disposable
from trainbus.plugins.retention.trash import Trash
from trainbus.plugins.retention.verify import Progress, files_of, kind_of, verify, whole_digest

MANIFEST = "trainbus_version.json"
LATEST = "latest"
NAME = re.compile(r"v(\d{3,})")
PARTIAL = ".partial-"
SPARE_BYTES = 64 * 1024 * 1024
"""Must be left free beside a copy."""


class Version(Struct, kw_only=True, frozen=True):
    """A version's manifest. ``digest`` is over ``files``; ``checkpoint`` is the id of what it was made from."""

    name: str
    created: int
    kind: str
    digest: str
    files: dict[str, FileDigest]
    run: str = ""
    step: int | None = None
    checkpoint: str = ""
    source: str = ""
    merged: bool = False
    who: str = ""
    note: str = ""
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(entry.bytes for entry in self.files.values())


Merge = Callable[[Path, Path], None]
"""Writes a merged model, made of the adapter in the first directory, into the second."""


def promote(
    source: Path,
    directory: Path,
    *,
    record: Record | None = None,
    who: str = "",
    note: str = "",
    merge: Merge | None = None,
    with_optimizer: bool = False,
    progress: Progress = lambda _: True,
) -> Version:
    """Make the next version of a checkpoint. The caller holds a lease on it.

    Args:
        source: The checkpoint.
        directory: Holds the versions; made when it is missing.
        record: What is known of the checkpoint.
        who: Stands in the manifest.
        note: Likewise.
        merge: Merges the adapter into its base first; None copies the files.
        with_optimizer: Also copy what is needed for resuming only.
        progress: Called with bytes read.

    Raises:
        ModelError: The checkpoint is not whole, the disk too full, or the copy not identical; nothing is left under a version's name.
        OSError: The disk failed, likewise.
    """
    found = verify(source, progress=progress)
    _require_none(found.faults, f"{source} is not whole", "`trainbus checkpoints verify` shows which are.")
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory):
        for left in directory.glob(f"{PARTIAL}*"):
            shutil.rmtree(left)
        free = shutil.disk_usage(directory).free
        if merge is None and free < found.bytes + SPARE_BYTES:
            raise ModelError(
                f"{directory} has {free:,} bytes free, {found.bytes + SPARE_BYTES:,} are needed.",
                hint="Free some space.",
                file=str(directory),
            )
        name = f"v{_next(directory):03d}"
        partial = directory / f"{PARTIAL}{name}"
        partial.mkdir()
        try:
            files = _merged(source, partial, merge) if merge else _copied(source, partial, with_optimizer=with_optimizer)
            version = Version(
                name=name,
                created=time.time_ns(),
                kind=kind_of(partial),
                digest=whole_digest([(relative, entry.bytes, entry.xxh3) for relative, entry in files.items()]),
                files=files,
                run=record.run if record else "",
                step=record.step if record else None,
                checkpoint=record.id if record else "",
                source=str(source),
                merged=merge is not None,
                who=who,
                note=note,
                metrics=record.metrics if record else {},
            )
            _write(partial / MANIFEST, version)
            sync_directory(partial)
            partial.rename(directory / name)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync_directory(directory)
        point_latest(directory)
    return version


def listed(directory: Path) -> list[Version]:
    """All versions by number."""
    found = [(int(match[1]), path) for path in _children(directory) if (match := NAME.fullmatch(path.name)) and not path.is_symlink()]
    return [version for _, path in sorted(found) if (version := read_manifest(path)) is not None]


def read_manifest(path: Path) -> Version | None:
    """The manifest of a version's directory; None when there is none that can be read."""
    try:
        return msgspec.json.decode((path / MANIFEST).read_bytes(), type=Version)
    except (OSError, *DECODE_ERRORS):
        return None


def the_version(directory: Path, name: str) -> Version:
    """A version by its name, number, or ``latest``.

    Raises:
        ModelError: There is none.
    """
    versions = listed(directory)
    wanted = versions[-1].name if name == LATEST and versions else f"v{int(name):03d}" if name.isdigit() else name
    for version in versions:
        if version.name == wanted:
            return version
    known = ", ".join(version.name for version in versions[-5:]) or "none"
    raise ModelError(f"{directory} has no version {name!r}.", hint=f"The newest are: {known}.", file=str(directory))


def faults_of(path: Path, version: Version) -> list[str]:
    """Why a version's directory is not whole, by its manifest; empty when it is."""
    return differences(version.files, {relative: entry for relative, entry in digests_of(path, version.files).items() if entry is not None})


def differences(expected: dict[str, FileDigest], found: dict[str, FileDigest]) -> list[str]:
    """What differs, file by file, in words."""
    faults = []
    for relative, entry in expected.items():
        other = found.get(relative)
        if other is None:
            faults.append(f"{relative} is missing")
        elif other != entry:
            faults.append(f"{relative} has changed")
    return faults


def copy_out(directory: Path, version: Version, target: Path) -> Path:
    """Copy a version to a place of its own, identical file by file; it appears whole or not at all.

    Raises:
        ModelError: The place is taken, or the version is not what its manifest says.
    """
    if os.path.lexists(target):
        raise ModelError(f"{target} exists already.", hint="Choose another place.", file=str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f"{PARTIAL}{target.name}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        found = {relative: copy_file(directory / version.name / relative, partial / relative) for relative in version.files}
        _require_none(
            differences(version.files, found), f"{directory / version.name} is damaged", "`trainbus checkpoints backups` may have it."
        )
        sync_directory(partial)
        partial.rename(target)
        sync_directory(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return target


def delete(directory: Path, version: Version, *, who: str, reason: str) -> None:
    """Put a version into the trash of its directory, from where `trash_of` restores it.

    Raises:
        NotACheckpoint: The directory holds something else by now.
    """
    with _locked(directory):
        record = Record(version.checkpoint, version.run, version.step or 0, version.created, str(directory / version.name), version.bytes)
        record.digest = version.digest
        trash_of(directory, who=who).put(record, reason=reason)
        point_latest(directory)


def trash_of(directory: Path, *, who: str = "") -> Trash:
    """The trash of a directory of versions."""
    return Trash(directory.resolve(), who=who, recognise=_recognise)


def point_latest(directory: Path) -> None:
    """Let ``latest`` lead to the newest version; it goes when there is none."""
    versions = listed(directory)
    link = directory / LATEST
    if not versions:
        with suppress(FileNotFoundError):
            link.unlink()
        return
    fresh = directory / f".{LATEST}.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(versions[-1].name)
    fresh.replace(link)


def _recognise(record: Record, parent: int) -> None:
    path = Path(record.path)
    version = read_manifest(path)
    if not NAME.fullmatch(path.name) or version is None or version.digest != record.digest:
        raise NotACheckpoint(f"{path} is not the version that was meant.", path=str(path))
    if (path / PIN).exists():
        raise NotACheckpoint(f"{path} is pinned.", path=str(path))


def _copied(source: Path, partial: Path, *, with_optimizer: bool) -> dict[str, FileDigest]:
    wanted = [relative for relative in files_of(source) if with_optimizer or not is_disposable(relative)]
    copied = {relative: copy_file(source / relative, partial / relative) for relative in wanted}
    faults = differences(copied, {relative: entry for relative, entry in digests_of(partial, wanted).items() if entry is not None})
    if faults:
        raise ModelError(
            f"The copy of {source} is not identical: {'; '.join(faults[:3])}.", hint="The disk may be failing.", file=str(source)
        )
    return copied


def _merged(source: Path, partial: Path, merge: Merge) -> dict[str, FileDigest]:
    merge(source, partial)
    _require_none(verify(partial).faults, "The merged model is not whole", "Try again.")
    (partial / MARKER).unlink(missing_ok=True)
    wanted = list(files_of(partial))
    return {relative: entry for relative, entry in digests_of(partial, wanted).items() if entry is not None}


def _require_none(faults: Sequence[str], problem: str, hint: str) -> None:
    if faults:
        raise ModelError(f"{problem}: {'; '.join(faults[:3])}.", hint=hint, faults=list(faults))


def _next(directory: Path) -> int:
    """Numbers are never used twice, not even those of deleted versions."""
    used = [int(match[1]) for path in _children(directory) if (match := NAME.fullmatch(path.name))]
    used += [int(match[1]) for entry in trash_of(directory).ledger.entries() if (match := NAME.fullmatch(Path(entry.path).name))]
    return max(used, default=0) + 1


def _children(directory: Path) -> Iterator[Path]:
    if directory.is_dir():
        yield from directory.iterdir()


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write(path: Path, version: Version) -> None:
    with path.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(version), indent=1))
        file.flush()
        os.fsync(file.fileno())
