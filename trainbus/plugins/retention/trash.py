"""The trash of one directory of checkpoints: put in, thin, restore, empty. Every change is a rename, so it is whole or not done at all.

What lies in the trash is read from the disk, and what it was from the ledger, so a kill needs no repair: a place that the ledger names
and the disk has is in the trash; one that has the suffix `EMPTYING` is on its way out and can't come back. Only places that the ledger
names are ever touched: the folder may hold other people's things.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct, structs

from trainbus.bus.events import MARKER
from trainbus.plugins.retention.ledger import Entry, Ledger
from trainbus.plugins.retention.recognition import PIN, NotACheckpoint, check_place, opened, read_marker_at, recognise
from trainbus.plugins.retention.records import Record
from trainbus.plugins.retention.thinning import disposable, thinned_marker, write_marker

TRASH = ".trash"
EMPTYING = ".emptying"
NO_REPLACE = 1
"""RENAME_NOREPLACE."""


class Trashed(Struct, frozen=True, kw_only=True):
    """One thing in the trash."""

    entry: Entry
    place: Path
    emptying: bool = False

    @property
    def thinned(self) -> bool:
        """Whether it is only what thinning took out of a checkpoint."""
        return self.entry.action == "thinning"


class Trash:
    """The trash beside the checkpoints of one directory.

    Args:
        root: The directory that holds the checkpoints.
        who: Stands in the ledger.
        wall: Nanoseconds since the epoch.
        recognise: Looks whether a name in the open root is what a record speaks of; raises NotACheckpoint when not.
    """

    def __init__(
        self, root: Path, *, who: str = "", wall: Callable[[], int] = time.time_ns, recognise: Callable[[Record, int], None] = recognise
    ) -> None:
        self.root = root
        self.folder = root / TRASH
        self.ledger = Ledger(self.folder / "ledger.jsonl")
        self._who = who
        self._wall = wall
        self._recognise = recognise

    def prepare(self) -> None:
        """Make the folder and reserve room for the ledger while the disk has some.

        Raises:
            NotACheckpoint: Something that is no directory is in the way.
            OSError: The disk refuses.
        """
        with opened(self.root) as root:
            with suppress(FileExistsError):
                os.mkdir(TRASH, mode=0o700, dir_fd=root)
            if not stat.S_ISDIR(os.stat(TRASH, dir_fd=root, follow_symlinks=False).st_mode):
                raise NotACheckpoint(f"{self.folder} is in the way: it is no directory.", path=str(self.folder))
        self.ledger.reserve()

    def put(self, record: Record, *, reason: str, policy: str = "", roots: Sequence[str] = (), deadline: float = math.inf) -> Trashed:
        """Recognise a checkpoint once more and rename it into the trash.

        Where there is a bus, the caller holds the exclusive lease, and until the ``deadline`` (monotonic) it holds in any case: a process
        that was frozen for longer must not go on as if nothing had happened.

        Raises:
            NotACheckpoint: The disk holds something else, or it is pinned; nothing was touched.
            OSError: The disk failed; the checkpoint is whole in its place or whole in the trash.
        """
        path = Path(record.path)
        check_place(path, roots)
        self.prepare()
        with self.ledger.locked(), opened(self.root) as root, opened(self.folder) as folder:
            self._recognise(record, root)
            entry = self._entry("trashing", record, f"{path.name}.{self._wall()}", reason=reason, policy=policy)
            self.ledger.write(entry)
            _in_time(path, deadline)
            os.rename(path.name, entry.trash, src_dir_fd=root, dst_dir_fd=folder)
            _sync(root, folder)
            if (self.folder / entry.trash / PIN).exists():  # somebody pinned it between the look and the rename
                _rename_new(folder, entry.trash, root, path.name)
                _sync(root, folder)
                raise NotACheckpoint(f"{path} was pinned meanwhile.", path=str(path))
        return Trashed(entry=entry, place=self.folder / entry.trash)

    def thin(self, record: Record, *, reason: str, policy: str = "", roots: Sequence[str] = (), deadline: float = math.inf) -> Trashed:
        """Move what only resuming needs into the trash; the weights stay. The checkpoint is whole, as a thinner one, at every moment.

        Raises:
            NotACheckpoint: As `put`, or there is nothing to take out.
            OSError: The disk failed; calling it again goes on.
        """
        path = Path(record.path)
        check_place(path, roots)
        self.prepare()
        with self.ledger.locked(), opened(self.root) as root:
            self._recognise(record, root)
            files = disposable(path)
            if not files:
                raise NotACheckpoint(f"{path} has no optimizer state to drop.", path=str(path))
            entry = self._entry("thinning", record, f"{path.name}.thinned.{self._wall()}", reason=reason, policy=policy)
            entry.files, entry.bytes = sorted(files), sum(files.values())
            self.ledger.write(entry)
            _in_time(path, deadline)
            self._move_out(entry)
            self.ledger.write(self._later(entry, "thinned"))
        return Trashed(entry=entry, place=self.folder / entry.trash)

    def restore(self, thing: Trashed) -> Path:
        """Put something back into its place; returns the checkpoint's path.

        Raises:
            NotACheckpoint: It is gone, half emptied, or its place is taken; nothing was touched.
            OSError: The disk failed; it is in one place or the other.
        """
        path = Path(thing.entry.path)
        check_place(path)
        with self.ledger.locked(), opened(self.root) as root, opened(self.folder) as folder:
            if not thing.place.is_dir():
                raise NotACheckpoint(f"{thing.place} is not in the trash any more.", path=str(thing.place))
            if thing.thinned:
                self._move_back(thing)
            else:
                if os.path.lexists(path):
                    raise NotACheckpoint(f"{path} holds something else by now.", hint="Move that away first.", path=str(path))
                self.ledger.write(self._later(thing.entry, "restoring"))
                _rename_new(folder, thing.place.name, root, path.name)
            _sync(root, folder)
            self.ledger.write(self._later(thing.entry, "restored"))
        return path

    def condemn(self, thing: Trashed) -> Trashed | None:
        """The point of no return: it can't be restored from here on. None when it is gone or restored already."""
        if thing.emptying:
            return thing
        with self.ledger.locked(), opened(self.folder) as folder:
            if not thing.place.is_dir() or thing.place.is_symlink():
                return None
            self.ledger.write(self._later(thing.entry, "emptying"))
            os.rename(thing.place.name, thing.place.name + EMPTYING, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
        return Trashed(entry=thing.entry, place=thing.place.with_name(thing.place.name + EMPTYING), emptying=True)

    def emptied(self, thing: Trashed) -> None:
        """Note that nothing is left of it."""
        self.ledger.write(self._later(thing.entry, "emptied"))

    def contents(self) -> list[Trashed]:
        """What lies in the trash and is ours, oldest first."""
        return list(self._contents())

    def find(self, identity: str) -> Trashed | None:
        """The whole checkpoint of that id, path or name that can still be restored; the one trashed last."""
        names = [thing for thing in self.contents() if not thing.emptying and identity in _names(thing)]
        return next((thing for thing in reversed(names) if not thing.thinned), names[-1] if names else None)

    def why_deleted(self, identity: str) -> Entry | None:
        """The last line by which a checkpoint left its place; None when it never did, or came back."""
        last = None
        for entry in self.ledger.entries():
            if entry.id == identity:
                last = entry if entry.action == "trashing" else None if entry.action == "restored" else last
        return last

    def recover(self) -> list[Path]:
        """Finish what a kill has interrupted: thinning goes on, what was pinned at the last moment comes back (its paths are returned)."""
        if not self.folder.is_dir() or self.folder.is_symlink():
            return []
        back = []
        done = {entry.trash for entry in self.ledger.entries() if entry.action in ("thinned", "restoring")}
        for thing in self.contents():
            if thing.emptying:
                continue
            if thing.thinned:
                # By its marker alone: without one, the directory may be another checkpoint's by now.
                if thing.entry.trash not in done and _identity(Path(thing.entry.path)) == thing.entry.id:
                    with self.ledger.locked():
                        self._move_out(thing.entry)
                        self.ledger.write(self._later(thing.entry, "thinned"))
            elif (thing.place / PIN).exists() and not os.path.lexists(thing.entry.path):
                back.append(self.restore(thing))
        return back

    def _contents(self) -> Iterator[Trashed]:
        seen: dict[str, Entry] = {}
        for entry in self.ledger.entries():
            if entry.trash and "/" not in entry.trash and entry.action in ("trashing", "thinning"):
                seen[entry.trash] = entry
        if self.folder.is_symlink():
            return
        for name, entry in seen.items():
            for emptying in (False, True):
                place = self.folder / (name + EMPTYING * emptying)
                if place.is_dir() and not place.is_symlink():
                    yield Trashed(entry=entry, place=place, emptying=emptying)

    def _move_out(self, entry: Entry) -> None:
        """The marker goes first: from then on the files are superfluous, and moving them can be interrupted and repeated."""
        path, place = Path(entry.path), self.folder / entry.trash
        if not path.is_dir():
            return  # it was deleted as a whole since
        place.mkdir(mode=0o700, exist_ok=True)
        marker = path / MARKER
        if marker.is_file() and not (place / MARKER).exists():
            write_marker(place / MARKER, marker.read_bytes())
        if marker.is_file():
            write_marker(marker, thinned_marker((place / MARKER).read_bytes(), entry.files))
        for name in entry.files:
            with suppress(FileNotFoundError):
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).rename(place / name)
        with opened(path) as left, opened(place) as taken:
            _sync(left, taken)

    def _move_back(self, thing: Trashed) -> None:
        path = Path(thing.entry.path)
        if not path.is_dir():
            raise NotACheckpoint(f"{path} is not there to be completed.", hint="Restore the checkpoint itself first.", path=str(path))
        interrupted = any(entry.action == "restoring" and entry.trash == thing.entry.trash for entry in self.ledger.entries())
        others = [name for name in thing.entry.files if (path / name).exists()]
        if (others and not interrupted) or ((thing.place / MARKER).exists() and _identity(path) != thing.entry.id):
            raise NotACheckpoint(f"{path} holds another checkpoint by now.", path=str(path))
        self.ledger.write(self._later(thing.entry, "restoring"))
        for name in thing.entry.files:
            if (thing.place / name).exists():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (thing.place / name).rename(path / name)
        if (thing.place / MARKER).exists():
            (thing.place / MARKER).rename(path / MARKER)  # last: until here it is whole as a thinner one
        for directory, _, _ in os.walk(thing.place, topdown=False):
            Path(directory).rmdir()

    def _entry(self, action: str, record: Record, place: str, *, reason: str, policy: str) -> Entry:
        return Entry(
            time=self._wall(),
            action=action,
            path=record.path,
            id=record.id,
            run=record.run,
            step=record.step,
            bytes=record.bytes,
            digest=record.digest,
            metrics=record.metrics,
            completed=record.time,
            reason=reason,
            policy=policy,
            who=self._who,
            trash=place,
        )

    def _later(self, entry: Entry, action: str) -> Entry:
        return structs.replace(entry, time=self._wall(), action=action, who=self._who, metrics={}, files=[])


def _names(thing: Trashed) -> tuple[str, ...]:
    return thing.entry.id, thing.entry.path, Path(thing.entry.path).name, thing.entry.trash, str(thing.entry.step)


def _in_time(path: Path, deadline: float) -> None:
    if time.monotonic() >= deadline:
        raise NotACheckpoint(f"{path} is kept: its lease may have run out.", hint="It is tried again.", path=str(path))


def _identity(path: Path) -> object:
    """The id in a directory's marker; None without a marker that can be read."""
    try:
        with opened(path) as directory:
            return read_marker_at(path, directory).get("id")
    except (NotACheckpoint, OSError):
        return None


def _sync(*handles: int) -> None:
    for handle in handles:
        os.fsync(handle)


def _rename_new(source: int, name: str, target: int, new_name: str) -> None:
    """Rename without ever replacing: a directory that a trainer made this moment, still empty, would be replaced by a plain rename."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        if renameat2(source, os.fsencode(name), target, os.fsencode(new_name), NO_REPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS):  # a file system that doesn't know the flag
            raise OSError(number, os.strerror(number), new_name)
    if os.path.lexists(Path(f"/proc/self/fd/{target}") / new_name):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new_name)
    os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)
