"""What is to become of each checkpoint, told to the bus: whoever draws it needs nothing else, and only changes are told.

The first event about a run in the life of a process is ``full``: readers then forget what an earlier process had told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from msgspec import Struct, field

from trainbus.bus.events import CheckpointDisk, CheckpointFate, Fate, Retention
from trainbus.plugins.retention.config import RetentionConfig
from trainbus.plugins.retention.planning import Decision, DiskState, floor_of
from trainbus.plugins.retention.records import Record
from trainbus.plugins.retention.returning import bytes_per_second
from trainbus.plugins.retention.trash import Trash, Trashed

TOLD_KEY = "told"
MAX_FATES = 500
"""Checkpoints that one event tells of: some hundred kilobytes."""

States: dict[str, Fate] = {"keep": "kept", "delete": "goes", "thin": "thins"}


class Held(Struct, frozen=True):
    """Who holds checkpoints, by their ids: the pin of each, and the leases."""

    pins: Mapping[str, str] = field(default_factory=dict)
    leases: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Fates:
    """Remembers what was told.

    Args:
        host: This machine.
        config: The settings.
        state: Durable small values.
    """

    def __init__(self, host: str, config: RetentionConfig, state: MutableMapping[str, Any]) -> None:
        self._host = host
        self._config = config
        self._state = state
        self._told: dict[str, dict[str, CheckpointFate]] = {}
        self._disks: list[CheckpointDisk] = []

    def changes(self, decisions: Iterable[Decision], held: Held, contents: Iterable[tuple[Trash, Trashed]]) -> Iterator[Retention]:
        """The events that tell what is other than it was."""
        now = self._now(decisions, held, contents)
        runs = sorted({*now, *self._told, *self._state.get(TOLD_KEY, [])})
        for run in runs:
            fates, before = now.get(run, {}), self._told.get(run)
            changed = [fate for fate in fates.values() if before is None or before.get(fate.id) != fate]
            changed += [
                CheckpointFate(id=fate.id, step=fate.step, state="gone") for fate in (before or {}).values() if fate.id not in fates
            ]
            full = before is None
            while changed or full:
                part, changed = changed[:MAX_FATES], changed[MAX_FATES:]
                yield Retention(run=run, host=self._host, full=full, dry_run=self._config.dry_run, checkpoints=part)
                full = False
            self._told[run] = fates
        self._told = {run: fates for run, fates in self._told.items() if fates}
        if (told := sorted(self._told)) != self._state.get(TOLD_KEY, []):
            self._state[TOLD_KEY] = told

    def disks(self, disks: Sequence[DiskState], records: Iterable[Record]) -> Retention | None:
        """The event that tells how full the disks are; None when that is as it was."""
        known = list(records)
        found = [self._disk(disk, [record for record in known if record.path.rpartition("/")[0] in disk.directories]) for disk in disks]
        if found == self._disks:
            return None
        self._disks = found
        return Retention(host=self._host, dry_run=self._config.dry_run, disks=found)

    def _now(
        self, decisions: Iterable[Decision], held: Held, contents: Iterable[tuple[Trash, Trashed]]
    ) -> dict[str, dict[str, CheckpointFate]]:
        runs: dict[str, dict[str, CheckpointFate]] = {}
        thinned = set()
        for _, thing in contents:
            if thing.emptying:
                continue
            if thing.thinned:
                thinned.add(thing.entry.id)
            else:
                runs.setdefault(thing.entry.run, {})[thing.entry.id] = self._trashed(thing)
        for decision in decisions:
            record = decision.record
            runs.setdefault(record.run, {})[record.id] = CheckpointFate(
                id=record.id,
                step=record.step,
                path=record.path,
                state=States[decision.action],
                reasons=list(decision.reasons),
                time=record.time,
                bytes=record.bytes,
                metrics=dict(record.metrics),
                protected=decision.protected,
                pinned=held.pins.get(record.id, ""),
                leases=list(held.leases.get(record.id, ())),
                thinned=record.thinned,
                restorable=record.id in thinned,
            )
        return runs

    def _trashed(self, thing: Trashed) -> CheckpointFate:
        entry = thing.entry
        return CheckpointFate(
            id=entry.id,
            step=entry.step,
            path=entry.path,
            state="trashed",
            reasons=[f"deleted by {entry.who}: {entry.reason}" if entry.who else entry.reason],
            time=entry.completed,
            bytes=entry.bytes,
            metrics=dict(entry.metrics),
            restorable=True,
            until=entry.time + int(self._config.trash_grace * 1e9),
        )

    def _disk(self, disk: DiskState, here: Sequence[Record]) -> CheckpointDisk:
        rate = bytes_per_second(here)
        return CheckpointDisk(
            path=disk.name,
            total=disk.total,
            free=disk.free,
            checkpoints=sum(record.bytes or 0 for record in here),
            trash=disk.trash,
            floor=floor_of(disk, self._config),
            full_in=disk.free / rate if rate else None,
            directories=sorted(disk.directories),
        )
