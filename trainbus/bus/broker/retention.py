"""Which events the journal may forget: the oldest, once they are too old or the file is too large.

Only the plan is made here, on a read-only connection; `deletion` carries it out in chunks. Summaries of runs stay. A consumer that
has not read what goes is told so by a gap event in the same transaction.
"""

from __future__ import annotations

from msgspec import Struct

from trainbus.bus.broker.replay import HistoryReader
from trainbus.bus.config import BusConfig

INTERVAL = 10.0
"""Seconds between two looks at the journal."""

SLACK = 0.05
"""Share of the wanted size that is freed beyond need: not every look finds a few events to delete, and pages are never quite full."""


class Plan(Struct, frozen=True):
    """Delete the events at offsets ``oldest`` to ``upto``, because of ``setting``."""

    oldest: int
    upto: int
    setting: str


def wanted(settings: BusConfig) -> bool:
    """Whether the journal has any limit."""
    return settings.journal_max_age is not None or settings.journal_max_bytes is not None


def plan(reader: HistoryReader, settings: BusConfig, wall: int) -> Plan | None:
    """What has to go now; None when nothing has to.

    Args:
        reader: The journal.
        settings: ``journal_max_age`` in seconds and ``journal_max_bytes``.
        wall: Nanoseconds since the epoch.
    """
    oldest = reader.oldest()
    if oldest is None:
        return None
    plans = [_by_age(reader, settings.journal_max_age, wall, oldest), _by_size(reader, settings.journal_max_bytes, oldest)]
    return max((found for found in plans if found and found.upto >= oldest), key=lambda found: found.upto, default=None)


def _by_age(reader: HistoryReader, max_age: float | None, wall: int, oldest: int) -> Plan | None:
    """Events go in offset order: one that is old by its stamp but came late (from a drained spool) waits for those before it."""
    if max_age is None:
        return None
    first_kept = reader.first_since(wall - int(max_age * 1e9))
    upto = reader.newest() if first_kept is None else first_kept - 1
    return Plan(oldest, upto, "journal_max_age")


def _by_size(reader: HistoryReader, max_bytes: int | None, oldest: int) -> Plan | None:
    if max_bytes is None:
        return None
    used = reader.used_bytes()
    if used <= max_bytes:
        return None
    count = reader.count()
    surplus = used - max_bytes * (1 - SLACK)
    upto = reader.nth(min(count, int(count * surplus / used) + 1))
    return None if upto is None else Plan(oldest, upto, "journal_max_bytes")
