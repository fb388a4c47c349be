"""The checkpoints of a run: what retention told of each, and of those that it has not told of, what their own events say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

from msgspec import Struct, field, structs

from trainbus.bus import events

FATES = 2_000
"""Checkpoints of a run whose fate is kept; of more, those with the lowest steps are forgotten."""

Standing: TypeAlias = Literal["writing", "complete", "kept", "goes", "thins", "trashed", "gone"]

OWN_WORD: dict[events.CheckpointState, Standing] = {"writing": "writing", "complete": "complete", "deleted": "gone"}


class CheckpointRow(Struct, kw_only=True):
    """One checkpoint.

    ``writing`` and ``complete``: retention has not told of it; ``kept``; ``goes`` and ``thins`` at the next look, or never while
    ``dry_run`` holds; ``trashed``: it can be restored until ``until`` at the latest; ``gone``. ``pinned`` says why, ``leases`` who reads
    it; ``managed``: retention on its host has told of it, so that it can be asked to pin, unpin and restore.
    """

    id: str
    host: str
    step: int
    path: str
    state: Standing
    reasons: list[str] = field(default_factory=list)
    time: int = 0
    bytes: int | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    protected: bool = False
    pinned: str = ""
    leases: list[str] = field(default_factory=list)
    thinned: bool = False
    restorable: bool = False
    until: int = 0
    managed: bool = False
    dry_run: bool = False


class DiskRow(Struct, kw_only=True):
    """A file system with checkpoints of the run. ``checkpoints`` and ``trash``: bytes that those of all runs take of it; ``floor``: bytes
    that shall stay free; ``full_in``: seconds from ``time`` on until it is full at the present rate, None while that is not known."""

    host: str
    path: str
    time: int
    total: int
    free: int
    checkpoints: int
    trash: int
    floor: int
    full_in: float | None


class CheckpointsStats(Struct, kw_only=True):
    """The checkpoints of a run, those of the highest steps first, and their disks. ``version`` grows with every change."""

    run: str
    version: int
    checkpoints: list[CheckpointRow]
    disks: list[DiskRow]


class CheckpointBoard:
    """Fates by host and id, as the events of retention tell them."""

    def __init__(self) -> None:
        self._fates: dict[tuple[str, str], events.CheckpointFate] = {}
        self._dry: dict[str, bool] = {}

    def apply(self, event: events.Retention) -> None:
        """Take in what changed. A checkpoint that is gone goes on saying what it was."""
        self._dry[event.host] = event.dry_run
        if event.full:
            self._fates = {key: fate for key, fate in self._fates.items() if key[0] != event.host}
        for fate in event.checkpoints:
            key = (event.host, fate.id)
            before = self._fates.get(key)
            self._fates[key] = _gone(before) if before is not None and fate.state == "gone" else fate
        if len(self._fates) > FATES:
            self._fates = dict(sorted(self._fates.items(), key=lambda item: item[1].step)[-FATES:])

    def hosts(self) -> set[str]:
        """Where retention has told of checkpoints of this run."""
        return {host for host, _ in self._fates}

    def rows(self, announced: Iterable[events.Checkpoint]) -> list[CheckpointRow]:
        """All that is known, the highest step first.

        Args:
            announced: The newest checkpoint event of each directory; one that retention has told of adds nothing.
        """
        rows = [self._told(host, fate) for (host, _), fate in self._fates.items()]
        rows += [_untold(event) for event in announced if (event.host, event.id) not in self._fates]
        return sorted(rows, key=lambda row: (row.step, row.time), reverse=True)

    def _told(self, host: str, fate: events.CheckpointFate) -> CheckpointRow:
        fields = structs.asdict(fate) | {"metrics": dict(fate.metrics)}
        return CheckpointRow(host=host, managed=True, dry_run=self._dry.get(host, False), **fields)


def disk_rows(told: Iterable[events.Retention], rows: Iterable[CheckpointRow]) -> list[DiskRow]:
    """The disks that hold any of the checkpoints: the parent of its path is among the directories of the disk."""
    directories = {(row.host, row.path.rpartition("/")[0]) for row in rows if row.state != "gone"}
    return [
        DiskRow(
            host=event.host,
            time=event.time,
            path=disk.path,
            total=disk.total,
            free=disk.free,
            checkpoints=disk.checkpoints,
            trash=disk.trash,
            floor=disk.floor,
            full_in=disk.full_in,
        )
        for event in told
        for disk in event.disks
        if any((event.host, directory) in directories for directory in disk.directories)
    ]


def _gone(fate: events.CheckpointFate) -> events.CheckpointFate:
    return structs.replace(fate, state="gone", protected=False, pinned="", leases=[], restorable=False, until=0)


def _untold(event: events.Checkpoint) -> CheckpointRow:
    return CheckpointRow(
        id=event.id,
        host=event.host,
        step=event.step,
        path=event.path,
        state=OWN_WORD[event.state],
        reasons=[event.reason] if event.reason else [],
        time=event.time,
        bytes=event.bytes,
        metrics=dict(event.metrics),
    )
