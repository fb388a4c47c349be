"""Which trashed checkpoints come back, since a metric that arrived late made them one of the best; when the disk will be full."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from trainbus.plugins.retention.config import RetentionConfig
from trainbus.plugins.retention.keeping import NANOSECONDS, ranked
from trainbus.plugins.retention.protection import metrics_of
from trainbus.plugins.retention.records import Record, position

PACE_CHECKPOINTS = 10
"""The newest so many tell how fast the disk fills."""


def comes_back(live: Iterable[Record], trashed: Iterable[Record], config: RetentionConfig, forced: Collection[str] = ()) -> dict[str, str]:
    """Checkpoint id → why it is restored.

    Args:
        live: Checkpoints in their places.
        trashed: Those that can still be restored.
        config: Whose metrics count.
        forced: Ids of those that a limit took: only the very best of them come back, or they would be taken again.
    """
    gone = {record.id for record in trashed}
    runs: dict[str, list[Record]] = {}
    for record in sorted((*live, *trashed), key=position):
        if not record.faults:
            runs.setdefault(record.run, []).append(record)
    found: dict[str, str] = {}
    for of_run in runs.values():
        if not any(record.id in gone for record in of_run):
            continue
        for policy in metrics_of(config):
            for place, record in enumerate(ranked(policy, of_run, policy.count)):
                if record.id in gone and (place == 0 or record.id not in forced):
                    found.setdefault(record.id, f"one of the best by {policy.metric} after all ({record.metrics[policy.metric]:.6g})")
    return found


def bytes_per_second(records: Iterable[Record]) -> float | None:
    """How fast checkpoints fill the disk at present; None while fewer than three tell."""
    newest = sorted(records, key=lambda record: record.time)[-PACE_CHECKPOINTS:]
    if len(newest) < 3 or newest[-1].time <= newest[0].time:
        return None
    written = sum(record.bytes or 0 for record in newest[1:])
    return written / ((newest[-1].time - newest[0].time) / NANOSECONDS)
