"""What each policy keeps, and why: pure functions of records in the order of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from heapq import nsmallest
from itertools import pairwise
from operator import attrgetter
from typing import Any

from trainbus.plugins.retention import policies as p
from trainbus.plugins.retention.records import Record

NANOSECONDS = 1_000_000_000

Reasons = dict[str, str]
"""Checkpoint id → why it is kept."""


def kept(policy: p.AnyPolicy | p.BestConfig, ordered: Sequence[Record], now: int) -> Reasons:
    """What a policy keeps.

    Args:
        policy: The policy.
        ordered: Whole checkpoints, by step.
        now: Nanoseconds since the epoch.
    """
    return _RULES[type(policy)](policy, ordered, now)


def ranked(policy: p.Best | p.BestConfig, ordered: Sequence[Record], count: int) -> list[Record]:
    """The ``count`` best of the measured ones. Of equally good ones the newer is better: it has learnt more."""
    sign, metric = (1 if policy.direction == "min" else -1), policy.metric
    measured = [record for record in reversed(ordered) if metric in record.metrics]
    if not measured:
        return []
    return nsmallest(count, measured, key=lambda record: sign * record.metrics[metric])  # stable: the newer stays in front


def _all(policy: p.All, ordered: Sequence[Record], now: int) -> Reasons:
    return {record.id: "all are kept" for record in ordered}


def _newest(policy: p.Newest, ordered: Sequence[Record], now: int) -> Reasons:
    newest = reversed(ordered[-policy.count :])
    return {record.id: f"number {place} of the newest {policy.count}" for place, record in enumerate(newest, 1)}


def _steps(policy: p.Steps, ordered: Sequence[Record], now: int) -> Reasons:
    found = _TAKEN[policy.take](ordered, policy.every)
    if policy.count:
        found = dict(list(found.items())[-policy.count :])
    return found


def _first(ordered: Iterable[Record], every: int) -> Reasons:
    """Steps that are no multiples are thinned to the same density."""
    found, last = {}, 0
    for record in ordered:
        if record.step // every > last:
            last = record.step // every
            found[record.id] = f"first at or after step {last * every}, one is kept every {every}"
    return found


def _exact(ordered: Iterable[Record], every: int) -> Reasons:
    return {record.id: f"its step is a multiple of {every}" for record in ordered if record.step % every == 0}


def _spaced(ordered: Iterable[Record], every: int) -> Reasons:
    found, last = {}, None
    for record in ordered:
        if last is None or record.step - last >= every:
            found[record.id] = f"at least {every} steps after the one kept before" if last is not None else "the first of all"
            last = record.step
    return found


def _closest(ordered: Sequence[Record], every: int) -> Reasons:
    """Multiples from 0 to the first at or after the last step; of two equally near ones the newer."""
    found: Reasons = {}

    def take(record: Record, target: int) -> None:
        found.setdefault(record.id, f"closest to step {target}, one is kept every {every}")

    if ordered:
        take(ordered[0], ordered[0].step // every * every)
    for before, after in pairwise(ordered):
        first, last = -(-before.step // every) * every, after.step // every * every
        middle = (before.step + after.step) / 2  # targets below it are nearer to `before`, the others to `after`
        if first <= last and first < middle:
            take(before, first)
        if first <= last and last >= middle:
            take(after, last)
    if ordered and ordered[-1].step % every:
        take(ordered[-1], (ordered[-1].step // every + 1) * every)
    return {record.id: found[record.id] for record in ordered if record.id in found}


def _at(policy: p.At, ordered: Sequence[Record], now: int) -> Reasons:
    steps = set(policy.steps)
    return {record.id: f"step {record.step} is named" for record in ordered if record.step in steps}


def _tiers(policy: p.Tiers, ordered: Sequence[Record], now: int) -> Reasons:
    """Multiples are counted from step 0 in every tier, so what a thin tier wants, the denser one before it has kept."""
    found: Reasons = {}
    older = len(ordered)
    for number, tier in enumerate(policy.tiers, 1):
        taken = seen = 0
        marks = _first(ordered, tier.every) if tier.every else None
        while older and not (tier.count and taken >= tier.count) and not (tier.of and seen >= tier.of):
            older -= 1
            seen += 1
            record = ordered[older]
            if marks is None or record.id in marks:
                taken += 1
                density = "all of it" if marks is None else f"one every {tier.every} steps"
                found[record.id] = f"tier {number}: {density}"
    return found


def _best(policy: p.Best | p.BestConfig, ordered: Sequence[Record], now: int) -> Reasons:
    found = {}
    for place, record in enumerate(ranked(policy, ordered, policy.count), 1):
        which = "best" if place == 1 else f"number {place} of the best {policy.count}"
        found[record.id] = f"{which} by {policy.metric} ({record.metrics[policy.metric]:.6g})"
    if not policy.unmeasured and not policy.wait:
        return found
    for record in ordered:
        if policy.metric not in record.metrics:
            if policy.unmeasured:
                found[record.id] = f"{policy.metric} was not measured on it"
            elif (now - record.time) / NANOSECONDS < policy.wait:
                found[record.id] = f"{policy.metric} may still arrive: younger than {policy.wait:g} s"
    return found


def _period(policy: p.Period, ordered: Sequence[Record], now: int) -> Reasons:
    found: Reasons = {}
    periods: set[tuple[int, ...]] = set()
    for record in sorted(ordered, key=attrgetter("time", "step"), reverse=True):
        period = _period_of(policy.each, record.time // NANOSECONDS // 3600)
        if period in periods:
            continue
        if policy.count and len(periods) == policy.count:
            break
        periods.add(period)
        found[record.id] = f"newest of its {policy.each}"
    return found


@lru_cache(maxsize=4096)
def _period_of(each: str, hour: int) -> tuple[int, ...]:
    moment = datetime.fromtimestamp(hour * 3600, UTC)
    if each == "hour":
        return (hour,)
    if each == "week":
        return tuple(moment.isocalendar())[:2]
    return (moment.year, moment.month, moment.day if each == "day" else 0)


def _interval(policy: p.Interval, ordered: Sequence[Record], now: int) -> Reasons:
    found: Reasons = {}
    last = None
    for record in sorted(ordered, key=attrgetter("time", "step")):
        if last is None or record.time - last >= policy.seconds * NANOSECONDS:
            found[record.id] = f"at least {policy.seconds:g} s after the one kept before" if last is not None else "the oldest of all"
            last = record.time
    return found


def _newer(policy: p.Newer, ordered: Sequence[Record], now: int) -> Reasons:
    return {
        record.id: f"completed less than {policy.seconds:g} s ago" for record in ordered if now - record.time < policy.seconds * NANOSECONDS
    }


def _any_of(policy: p.AnyOf, ordered: Sequence[Record], now: int) -> Reasons:
    found: dict[str, list[str]] = {}
    for part in policy.policies:
        for identity, reason in kept(part, ordered, now).items():
            found.setdefault(identity, []).append(reason)
    return {identity: ", ".join(reasons) for identity, reasons in found.items()}


def _all_of(policy: p.AllOf, ordered: Sequence[Record], now: int) -> Reasons:
    parts = [kept(part, ordered, now) for part in policy.policies]
    common = set(parts[0]).intersection(*parts[1:])
    return {record.id: " and ".join(part[record.id] for part in parts) for record in ordered if record.id in common}


_TAKEN: dict[str, Callable[[Sequence[Record], int], Reasons]] = {"first": _first, "closest": _closest, "exact": _exact, "spaced": _spaced}
_RULES: dict[type, Callable[[Any, Sequence[Record], int], Reasons]] = {
    p.All: _all, p.Newest: _newest, p.Steps: _steps, p.At: _at, p.Tiers: _tiers, p.Best: _best, p.BestConfig: _best,
    p.Period: _period, p.Interval: _interval, p.Newer: _newer, p.AnyOf: _any_of, p.AllOf: _all_of,
}  # fmt: skip
