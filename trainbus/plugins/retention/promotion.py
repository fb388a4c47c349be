"""Promotions with their backups: by hand, and each day at a fixed hour.

A merge begins only after the adapter has a backup that was read back; a version counts as promoted once it has its own.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, MutableMapping
from contextlib import AbstractContextManager
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from trainbus.errors import TrainbusError
from trainbus.hookspecs import LeaseRefusedError
from trainbus.plugins.retention import backups, versions
from trainbus.plugins.retention.config import RetentionConfig
from trainbus.plugins.retention.keeping import ranked
from trainbus.plugins.retention.merging import merge_adapter
from trainbus.plugins.retention.records import Record, position
from trainbus.plugins.retention.schedule import Done
from trainbus.plugins.retention.verify import Progress, kind_of

DAY_KEY = "promoted"
NAME = "retention"


def promote(
    record: Record,
    directory: Path,
    *,
    backup_to: str = "",
    merge: bool = False,
    who: str = "",
    note: str = "",
    with_optimizer: bool = False,
    progress: Progress = lambda _: True,
) -> tuple[versions.Version, backups.Backup | None]:
    """Make the next version of a checkpoint, and its backup. The caller holds a lease on it.

    Raises:
        ModelError: As `versions.promote` and `backups.back_up`; without the adapter's backup no merge begins.
        OSError: A disk or the backup's other side failed.
    """
    source = Path(record.path)
    if merge and backup_to:
        backups.back_up(source, backup_to, name=f"{record.run}-{source.name}")
    version = versions.promote(
        source,
        directory,
        record=record,
        who=who,
        note=note,
        merge=merge_adapter if merge else None,
        with_optimizer=with_optimizer,
        progress=progress,
    )
    return version, backups.back_up_version(directory, version.name, backup_to) if backup_to else None


def chosen(records: Iterable[Record], config: RetentionConfig) -> list[Record]:
    """Of each run the one checkpoint to promote: the best by the first metric of ``keep_best`` that is known of any, or the newest."""
    runs: dict[str, list[Record]] = {}
    for record in sorted(records, key=position):
        if not record.faults:
            runs.setdefault(record.run, []).append(record)
    found = []
    for of_run in runs.values():
        best = [first for policy in config.keep_best for first in ranked(policy, of_run, 1)] if config.promote == "best" else []
        found.append(best[0] if best else of_run[-1])
    return found


class Daily:
    """Promotes once a day, in a thread of its own.

    Args:
        config: The settings.
        state: Durable small values: which day is done.
        lease: Takes a lease on a checkpoint.
        logger: For what was done.
    """

    def __init__(
        self,
        config: RetentionConfig,
        state: MutableMapping[str, Any],
        lease: Callable[[str], AbstractContextManager[None]],
        logger: logging.Logger,
    ) -> None:
        self._config = config
        self._state = state
        self._lease = lease
        self._logger = logger
        self._done: queue.SimpleQueue[Done] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def tick(self, now: int, records: Iterable[Record]) -> list[Done]:
        """Begin when it is time (``now`` in ns since the epoch; the hour is local); returns what has ended."""
        if self._config.promote_at and self._is_due(datetime.fromtimestamp(now / 1e9)):
            wanted = chosen(records, self._config)
            self._thread = threading.Thread(target=self._pass, args=(wanted,), name="trainbus-retention-promotion", daemon=True)
            self._thread.start()
        ended = []
        while not self._done.empty():
            ended.append(self._done.get())
        return ended

    @property
    def working(self) -> bool:
        """Whether a pass is under way."""
        return self._thread is not None and self._thread.is_alive()

    def _is_due(self, now: datetime) -> bool:
        """Once a day; an hour that passed while nobody was there is made up for on that day, but not by who has only just begun."""
        passed = f"{now:%H:%M}" >= self._config.promote_at
        last = self._state.get(DAY_KEY)
        if last is None:
            last = self._state[DAY_KEY] = str(now.date() if passed else now.date() - timedelta(days=1))
        if not passed or date.fromisoformat(last) >= now.date() or self.working:
            return False
        self._state[DAY_KEY] = str(now.date())
        return True

    def _pass(self, wanted: Iterable[Record]) -> None:
        made, failed = [], {}
        for record in wanted:
            path = Path(record.path)
            directory, merge = path.parent / "versions", kind_of(path) == "adapter"
            try:
                if any(one.checkpoint == record.id and one.merged == merge for one in versions.listed(directory)):
                    continue
                with self._lease(record.id):
                    version, _ = promote(record, directory, backup_to=self._config.backup_to, merge=merge, who=NAME)
                made.append(str(directory / version.name))
                self._logger.info("%s is %s, with a backup", path, directory / version.name)
            except (TrainbusError, LeaseRefusedError, OSError, ImportError) as error:
                failed[record.path] = error.problem if isinstance(error, TrainbusError) else str(error)
                self._logger.warning("%s could not be promoted: %s", path, error)
        self._done.put(Done(made=tuple(made), failed=failed))
