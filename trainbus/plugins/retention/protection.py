"""What is never deleted, whatever the policies and limits say: pure functions of records and of what else is known of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainbus.plugins.retention.config import RetentionConfig
from trainbus.plugins.retention.keeping import NANOSECONDS, ranked
from trainbus.plugins.retention.policies import AnyOf, Best, BestConfig
from trainbus.plugins.retention.records import Record

Marks = Mapping[str, Sequence[str]]
"""Checkpoint id → reasons to keep it that events, the disk or other people give: resumed from, being written, leased, pinned."""

Protected = dict[str, list[str]]
"""Checkpoint id → why it is never deleted."""

LAST_VERIFIED = "last verified whole copy"
"""A reason that ends when a newer checkpoint is verified."""

Leaders = Mapping[tuple[str, str], tuple[str, str] | None]
"""Metric and direction → id of the best checkpoint, and why it is that; None when it was measured on none."""


def protected(ordered: Sequence[Record], config: RetentionConfig, now: int, marks: Marks, leaders: Leaders | None = None) -> Protected:
    """The checkpoints of one run that nothing may delete.

    Args:
        ordered: All of the run, by step, damaged ones too.
        config: The settings.
        now: Nanoseconds since the epoch.
        marks: See `Marks`.
        leaders: Those that are known already; the others are looked for.
    """
    found: Protected = {}

    def protect(record: Record, reason: str) -> None:
        found.setdefault(record.id, []).append(reason)

    known = leaders or {}

    whole = [record for record in ordered if not record.faults]
    if marks:
        for record in ordered:
            for reason in marks.get(record.id, ()):
                protect(record, reason)
    if len(whole) < len(ordered):
        for record in (record for record in ordered if record.faults):
            protect(record, f"it is damaged, which is for a person to look at: {record.faults}")
    if config.min_age:
        young = now - config.min_age * NANOSECONDS
        for record in [record for record in ordered if record.time > young]:
            protect(record, f"younger than {config.min_age:g} s")
    if config.min_evaluations:
        for record in [record for record in ordered if len(record.evaluations) < config.min_evaluations]:
            protect(record, f"{len(record.evaluations)} of {config.min_evaluations} evaluations have finished")
    if whole:
        protect(whole[-1], "newest complete checkpoint")
        verified = next((record for record in reversed(whole) if record.verified and not record.thinned), None)
        if verified is not None:
            protect(verified, LAST_VERIFIED)
    for policy in metrics_of(config):
        name = policy.metric, policy.direction
        if name in known:
            if leader := known[name]:
                found.setdefault(leader[0], []).append(leader[1])
            continue
        for record in ranked(policy, whole, 1):
            protect(record, f"best by {policy.metric} ({record.metrics[policy.metric]:.6g})")
    return found


def metrics_of(config: RetentionConfig) -> list[BestConfig | Best]:
    """All policies by which one checkpoint is the best, of ``keep_best`` and ``keep``; inside an ``all_of`` they only restrict others."""
    found: list[BestConfig | Best] = list(config.keep_best)
    waiting = list(config.keep)
    while waiting:
        policy = waiting.pop()
        if isinstance(policy, Best):
            found.append(policy)
        elif isinstance(policy, AnyOf):
            waiting.extend(policy.policies)
    return found
