"""Which checkpoints of a run stay, and why: pure functions of records. Whatever one reason keeps is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from trainbus.plugins.retention.config import BestConfig, RetentionConfig
from trainbus.plugins.retention.records import Record

NANOSECONDS = 1_000_000_000

Keep = Callable[[Record, str], None]
"""Notes one reason to keep a record."""


class Decision(Struct, frozen=True):
    """What happens to one checkpoint, with all reasons."""

    record: Record
    keep: bool
    reasons: tuple[str, ...]

    @property
    def reason(self) -> str:
        """All reasons in one line."""
        return "; ".join(self.reasons)


def plan(records: Sequence[Record], config: RetentionConfig, now: int, marks: Mapping[str, Sequence[str]] | None = None) -> list[Decision]:
    """Decide over the complete checkpoints of one run.

    Args:
        records: All of them, in any order.
        config: The policies.
        now: Nanoseconds since the epoch, for the minimum age.
        marks: By checkpoint id: reasons to keep it whatever the policies say.

    Returns:
        One decision for each record, by step. Leases are not known here: they are asked for when a checkpoint is about to go.
    """
    ordered = sorted(records, key=_position)
    reasons: dict[str, list[str]] = {record.id: list((marks or {}).get(record.id, ())) for record in ordered}

    def keep(record: Record, reason: str) -> None:
        reasons[record.id].append(reason)

    _newest(ordered, config, keep)
    _every(ordered, config, keep)
    _best(ordered, config, keep)
    _young(ordered, config, now, keep)
    nothing = (_no_reason(config),)
    return [Decision(record, bool(reasons[record.id]), tuple(reasons[record.id]) or nothing) for record in ordered]


def _newest(ordered: Sequence[Record], config: RetentionConfig, keep: Keep) -> None:
    for place, record in enumerate(reversed(ordered[-config.keep_newest :]), 1):
        keep(record, "newest complete checkpoint" if place == 1 else f"number {place} of the newest {config.keep_newest}")


def _every(ordered: Sequence[Record], config: RetentionConfig, keep: Keep) -> None:
    """The first at or after each multiple, so that steps which are no multiples are thinned to the same density."""
    every, last = config.keep_every, 0
    if not every:
        return
    for record in ordered:
        if record.step // every > last:
            last = record.step // every
            keep(record, f"first at or after step {last * every}, one is kept every {every}")


def _best(ordered: Sequence[Record], config: RetentionConfig, keep: Keep) -> None:
    for policy in config.keep_best:
        for place, record in enumerate(_ranked(ordered, policy), 1):
            which = "best" if place == 1 else f"number {place} of the best {policy.count}"
            keep(record, f"{which} by {policy.metric} ({record.metrics[policy.metric]:.6g})")


def _young(ordered: Sequence[Record], config: RetentionConfig, now: int, keep: Keep) -> None:
    for record in ordered:
        if (now - record.time) / NANOSECONDS < config.min_age:
            keep(record, f"younger than {config.min_age:g} s")


def _ranked(ordered: Sequence[Record], policy: BestConfig) -> list[Record]:
    """Of equally good ones the newer is better: it has learnt more."""
    sign = 1 if policy.direction == "min" else -1
    measured = [record for record in reversed(ordered) if policy.metric in record.metrics]
    return sorted(measured, key=lambda record: sign * record.metrics[policy.metric])[: policy.count]


def _no_reason(config: RetentionConfig) -> str:
    kinds = [f"not among the newest {config.keep_newest}"]
    if config.keep_every:
        kinds.append(f"not one of every {config.keep_every} steps")
    if config.keep_best:
        kinds.append(f"not best by {', '.join(policy.metric for policy in config.keep_best)}")
    return ", ".join(kinds)


def _position(record: Record) -> tuple[int, int, str]:
    return record.step, record.time, record.id
