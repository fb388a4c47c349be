"""What each policy keeps, and why: pure functions of records in the order of steps."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from heapq import nlargest, nsmallest
from itertools import pairwise
from operator import attrgetter
from typing import Any

from trainbus.plugins.retention import policies as p
from trainbus.plugins.retention.records import Record

NANOSECONDS = 1_000_000_000
HOUR = 3_600 * NANOSECONDS
DAY = 24 * HOUR

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
    values = [record.metrics.get(policy.metric) for record in ordered]
    measured = [value for value in values if value is not None]
    if not measured:
        return []
    if policy.direction == "min":
        worst = nsmallest(count, measured)[-1]
        found = sorted((value, -at) for at, value in enumerate(values) if value is not None and value <= worst)
    else:
        worst = nlargest(count, measured)[-1]
        found = sorted((-value, -at) for at, value in enumerate(values) if value is not None and value >= worst)
    return [ordered[-at] for _, at in found[:count]]


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


def _first(ordered: Sequence[Record], every: int) -> Reasons:
    """Steps that are no multiples are thinned to the same density."""
    steps = [record.step for record in ordered]
    found, at = {}, bisect_left(steps, every)
    while at < len(steps):
        multiple = steps[at] // every
        found[ordered[at].id] = f"first at or after step {multiple * every}, one is kept every {every}"
        at = bisect_left(steps, (multiple + 1) * every, at + 1)
    return found


def _exact(ordered: Iterable[Record], every: int) -> Reasons:
    reason = f"its step is a multiple of {every}"
    return {record.id: reason for record in ordered if record.step % every == 0}


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
        last = after.step // every * every
        if last < before.step:
            continue  # no multiple lies between them
        first = -(-before.step // every) * every
        middle = (before.step + after.step) / 2  # targets below it are nearer to `before`, the others to `after`
        if first < middle:
            take(before, first)
        if last >= middle:
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
        reason = f"tier {number}: {f'one every {tier.every} steps' if tier.every else 'all of it'}"
        if not tier.count and not tier.of:
            left = ordered[:older]
            return found | dict.fromkeys(_first(left, tier.every) if tier.every else [record.id for record in left], reason)
        while older and not (tier.count and taken >= tier.count) and not (tier.of and seen >= tier.of):
            older -= 1
            seen += 1
            before = ordered[older - 1].step if older else 0
            if not tier.every or ordered[older].step // tier.every > before // tier.every:
                taken += 1
                found[ordered[older].id] = reason
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
    by_time, times = _by_time(ordered)
    found: Reasons = {}
    at = len(times)
    while at and not (policy.count and len(found) == policy.count):
        found[by_time[at - 1].id] = f"newest of its {policy.each}"
        at = bisect_left(times, _beginning(policy.each, times[at - 1]), 0, at)
    return found


def _beginning(each: str, time: int) -> int:
    """When the period of a time began, in UTC; both in nanoseconds since the epoch."""
    if each == "month":
        moment = datetime.fromtimestamp(time // NANOSECONDS, UTC)
        return int(moment.replace(day=1, hour=0, minute=0, second=0).timestamp()) * NANOSECONDS
    length, shift = {"hour": (HOUR, 0), "day": (DAY, 0), "week": (7 * DAY, 3 * DAY)}[each]  # the epoch was a Thursday
    return time - (time + shift) % length


def _by_time(ordered: Sequence[Record]) -> tuple[Sequence[Record], list[int]]:
    """Oldest first, and their times. Most often that is the order of steps, and seeing that is cheaper than sorting."""
    times = [record.time for record in ordered]
    sorted_times = sorted(times)
    return (ordered if times == sorted_times else sorted(ordered, key=attrgetter("time", "step"))), sorted_times


def _interval(policy: p.Interval, ordered: Sequence[Record], now: int) -> Reasons:
    found: Reasons = {}
    last = None
    for record in _by_time(ordered)[0]:
        if last is None or record.time - last >= policy.seconds * NANOSECONDS:
            found[record.id] = f"at least {policy.seconds:g} s after the one kept before" if last is not None else "the oldest of all"
            last = record.time
    return found


def _newer(policy: p.Newer, ordered: Sequence[Record], now: int) -> Reasons:
    reason, edge = f"completed less than {policy.seconds:g} s ago", now - policy.seconds * NANOSECONDS
    return {record.id: reason for record in ordered if record.time > edge}


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
