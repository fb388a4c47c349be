"""What people are told besides deletions: limits in trouble, disks that get full, backups that failed, and the disk's curves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from trainbus.bus.events import Alert, Metric
from trainbus.hookspecs import Context
from trainbus.plugins.retention.config import RetentionConfig
from trainbus.plugins.retention.fates import Fates
from trainbus.plugins.retention.planning import DiskState, Plan
from trainbus.plugins.retention.promotion import Daily
from trainbus.plugins.retention.records import Record
from trainbus.plugins.retention.report import Incidents, backup_alert, blocked_alert, disk_alert, promotion_alert
from trainbus.plugins.retention.returning import bytes_per_second
from trainbus.plugins.retention.schedule import Schedule

METRICS_EVERY = 60.0
"""Seconds between two points of the disk's curves."""


class Watch:
    """Raises and clears alerts.

    Args:
        config: The settings.
        host: This machine.
        context: The plugin's.
        wall: Nanoseconds since the epoch.
        fates: Tells of disks.
    """

    def __init__(self, config: RetentionConfig, host: str, context: Context, wall: Callable[[], int], fates: Fates) -> None:
        self._config = config
        self._host = host
        self._context = context
        self._wall = wall
        self._fates = fates
        self._incidents = Incidents(context.state)
        self._schedule = Schedule(config.versions, config.backup_to, config.backup_every, context.logger)
        self.daily = Daily(config, context.state, lambda checkpoint: context.lease(checkpoint, reason="promote"), context.logger)
        self._measured = 0

    def report(self, alert: Alert) -> None:
        """Raise an alert, or update it when it says something else than before."""
        if (changed := self._incidents.report(alert)) is not None:
            self._context.publish(changed)

    def clear(self, alert: Alert) -> None:
        """End an alert that was raised."""
        if (changed := self._incidents.clear(alert)) is not None:
            self._context.publish(changed)

    def look(self, made: Plan, disks: Sequence[DiskState], records: Iterable[Record]) -> None:
        """After each plan."""
        self._tell(blocked_alert(self._host, made.unmet), bool(made.unmet))
        now = self._wall()
        measure = now - self._measured >= METRICS_EVERY * 1e9
        known = list(records)
        if measure and (event := self._fates.disks(disks, known)) is not None:
            self._context.publish(event)
        for disk in disks:
            here = [record for record in known if record.path.rpartition("/")[0] in disk.directories]
            if self._config.warn_free_bytes:
                rate = bytes_per_second(here)
                alert = disk_alert(self._host, disk, self._config.warn_free_bytes, disk.free / rate if rate else None)
                self._tell(alert, disk.free < self._config.warn_free_bytes)
            if measure:
                self._measured = now
                taken = sum(record.bytes or 0 for record in here)
                for name, value in (("free", disk.free), ("checkpoints", taken), ("trash", disk.trash)):
                    self._context.publish(Metric(name=f"disk/{disk.name}/{name}", value=float(value), unit="bytes", time=now))
        for done in self.daily.tick(now, known):
            self._tell(promotion_alert(self._host, done.failed), bool(done.failed))
        for ended in self._schedule.tick(time.monotonic()):
            self._tell(backup_alert(self._host, ended.failed), bool(ended.failed))

    def _tell(self, alert: Alert, wrong: bool) -> None:
        if wrong:
            self.report(alert)
        else:
            self.clear(alert)
