"""From the folder into the queue: files that are wholly there are moved aside and become jobs.

DIR/                 drop files here, or into folders below; DIR/high/ and DIR/low/ give a priority
DIR/.queue/          files of jobs that wait or are trained on, as ID-NAME
DIR/completed/       files that were trained on
DIR/failed/          files that could not be, each with NAME.reason.txt; NAME.rejected.jsonl holds bad lines of files that were
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct, structs

from trainbus.errors import DataError
from trainbus.trainer_node.inbox.queue import Job, Priority, Queue, new_id

ACCEPTED = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".parquet")
UNFINISHED = (".part", ".tmp", ".crdownload", ".partial", ".filepart", ".swp")
"""Names that downloaders and editors give to files that are not whole; they are left alone."""
LARGEST_BYTES = 10 * 1024**3
"""Larger files are refused: a mistake more often than not, and one that costs days."""

QUEUED, COMPLETED, FAILED = ".queue", "completed", "failed"
_PRIORITY_FOLDERS: dict[str, Priority] = {"high": "high", "normal": "normal", "low": "low"}


class Taken(Struct, frozen=True):
    """A file that left the folder: now a job, or refused with a reason (then ``job`` was never queued)."""

    job: Job
    refused: str = ""


class Intake:
    """Looks at the folder. A file is taken when its size and time have not changed for ``settle`` seconds.

    Args:
        folder: The inbox; made when it does not exist.
        settle: Seconds; a copy over a slow network may need more.
        glance: Says what is wrong with a file as far as its beginning tells; such a file is refused at once.

    Raises:
        DataError: The folder can't be made or written.
    """

    def __init__(self, folder: Path, queue: Queue, *, settle: float, glance: Callable[[Path], str] = lambda _: "") -> None:
        self.folder = folder.expanduser().absolute()
        self._queue = queue
        self._settle = settle
        self._glance = glance
        self._seen: dict[Path, tuple[tuple[int, int, int], float]] = {}
        self._emptied: set[Path] = set()
        try:
            for name in (QUEUED, COMPLETED, FAILED):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            hint = "Choose another folder by --inbox, or mend its permissions."
            raise DataError(f"The inbox {self.folder} can't be used: {error.strerror}.", hint=hint, key="trainer.inbox") from error

    def look(self, now: float) -> list[Taken]:
        """Take what is whole, in the order of names. Call it often; ``now`` is monotonic seconds."""
        found = dict(self._candidates())
        self._seen = {path: known for path, known in self._seen.items() if path in found}
        taken = []
        for path, mark in sorted(found.items()):
            known, since = self._seen.setdefault(path, (mark, now))
            if known != mark:
                self._seen[path] = (mark, now)
            elif now - since >= self._settle:
                taken.append(self.take(path, self._priority(path)))
                self._emptied.add(path.parent)
        self._remove_emptied()
        return taken

    def waiting(self) -> list[Path]:
        """Files that are watched until they are whole."""
        return sorted(self._seen)

    def take(self, path: Path, priority: Priority, *, copy: bool = False) -> Taken:
        """Queue one file now. ``copy`` leaves the original where it is."""
        job = Job(id=new_id(), name=self._flat_name(path), path=path, priority=priority, bytes=path.stat().st_size)
        if reason := refusal(path) or self._glance(path):
            return Taken(structs.replace(job, path=path if copy else move(path, self.folder / FAILED / job.name, reason)), reason)
        target = self.folder / QUEUED / f"{job.id}-{job.name}"
        (shutil.copyfile if copy else _rename)(path, target)
        return Taken(self._queue.add(structs.replace(job, path=target)))

    def recover(self) -> list[Job]:
        """At the start: files that were moved aside by a process that died before it wrote the job down."""
        known = {job.path for job in self._queue.jobs()}
        lost = sorted(path for path in (self.folder / QUEUED).iterdir() if path not in known)
        return [
            self._queue.add(Job(id=new_id(), name=path.name[len(new_id()) + 1 :] or path.name, path=path, bytes=path.stat().st_size))
            for path in lost
        ]

    def file_away(self, job: Job, folder: str, reason: str = "") -> Path:
        """Move the file of an ended job to where people look for it; gives its new path."""
        return move(job.path, self.folder / folder / job.name, reason) if job.path.exists() else job.path

    def rejected(self, job: Job) -> Path:
        """Where the lines of a job go that are no examples."""
        return self.folder / FAILED / f"{job.name}.rejected.jsonl"

    def bring_back(self, job: Job) -> Path:
        """Move the file of a failed job among the waiting ones again; that of a skipped one is there.

        Raises:
            DataError: It is gone.
        """
        if not job.path.exists():
            raise DataError(f"{job.path} is gone.", hint="Put the file into the inbox again.", file=str(job.path))
        target = self.folder / QUEUED / f"{job.id}-{job.name}"
        _rename(job.path, target)
        job.path.with_name(job.path.name + ".reason.txt").unlink(missing_ok=True)
        return target

    def _candidates(self) -> Iterator[tuple[Path, tuple[int, int, int]]]:
        reserved = {self.folder / name for name in (COMPLETED, FAILED)}
        for parent, folders, files in os.walk(self.folder):
            above = Path(parent)
            folders[:] = [name for name in folders if not name.startswith(".") and above / name not in reserved]
            for name in files:
                path = above / name
                if name.startswith(".") or name.endswith(UNFINISHED):
                    continue
                try:
                    status = path.lstat()
                except OSError:  # moved away meanwhile
                    continue
                if stat.S_ISREG(status.st_mode):  # no links: what they point to is not ours to move
                    yield path, (status.st_size, status.st_mtime_ns, status.st_ino)

    def _priority(self, path: Path) -> Priority:
        return _PRIORITY_FOLDERS.get(path.relative_to(self.folder).parts[0], "normal")

    def _flat_name(self, path: Path) -> str:
        """``a/b/x.jsonl`` → ``x_a_b.jsonl``; a name that the queue knows gets a number."""
        between = path.relative_to(self.folder).parts[:-1] if path.is_relative_to(self.folder) else ()
        if between and between[0] in _PRIORITY_FOLDERS:
            between = between[1:]
        ending = next((ending for ending in ACCEPTED if path.name.lower().endswith(ending)), path.suffix)
        stem = "_".join((path.name[: len(path.name) - len(ending)], *between))
        known = {job.name for job in self._queue.jobs()}
        names = (f"{stem}{f'_{number}' if number else ''}{ending}" for number in range(len(known) + 1))
        return next(name for name in names if name not in known)

    def _remove_emptied(self) -> None:
        """Folders that we emptied go, once nobody seems to be filling them any more; those that give a priority stay."""
        for folder in list(self._emptied):
            keep = folder == self.folder or (folder.parent == self.folder and folder.name in _PRIORITY_FOLDERS)
            if keep or not folder.is_dir():
                self._emptied.discard(folder)
                continue
            try:
                folder.rmdir()
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    self._emptied.discard(folder)
                continue
            self._emptied.discard(folder)
            self._emptied.add(folder.parent)


def refusal(path: Path) -> str:
    """Why a file can't be a job, told before anybody reads it; empty when it may be one."""
    size = path.stat().st_size
    if not path.name.lower().endswith(ACCEPTED):
        return f"its name ends in {path.suffix or 'nothing'}; allowed: {', '.join(ACCEPTED)}"
    if size == 0:
        return "it is empty"
    if size > LARGEST_BYTES:
        return f"it has {size:,} bytes; allowed: {LARGEST_BYTES:,}. Split it"
    return ""


def move(path: Path, target: Path, reason: str = "") -> Path:
    """Move a file without replacing another; the reason, if any, is written beside it."""
    number = 1
    free = target
    while free.exists():
        number += 1
        free = target.with_name(f"{target.stem}_{number}{target.suffix}")
    _rename(path, free)
    if reason:
        free.with_name(free.name + ".reason.txt").write_text(reason + "\n")
    return free


def set_aside(job: Job) -> Path:
    """Move the file of a job that was taken out of the queue to those that failed; gives its path."""
    if job.path.parent.name != QUEUED or not job.path.exists():
        return job.path
    return move(job.path, job.path.parent.parent / FAILED / job.name, "it was taken out of the queue by hand")


def _rename(path: Path, target: Path) -> None:
    """Atomic within a file system; a copy and a removal across two."""
    try:
        path.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.move(path, target)
