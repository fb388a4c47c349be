"""The plan: what happens to each checkpoint and why. Policies first, then limits; protected checkpoints are touched by neither.

Order in which things go when a limit demands room: what already lies in the trash (for the disk floor, oldest first), what no policy
keeps, optimizer states (where ``thin`` allows it), then what only policies keep. Within each, ``order`` decides.
"""

from __future__ import annotations

import gc
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, Literal

from msgspec import Struct, field

from trainbus.plugins.retention.config import RetentionConfig
from trainbus.plugins.retention.keeping import kept
from trainbus.plugins.retention.policies import Best, BestConfig, Newest, Steps
from trainbus.plugins.retention.protection import Marks, protected
from trainbus.plugins.retention.records import Record, position

Action = Literal["keep", "thin", "delete"]


class Decision(Struct, frozen=True, kw_only=True, gc=False):
    """What happens to one checkpoint, with all reasons.

    Args:
        record: The checkpoint.
        action: What happens to it.
        reasons: Why, all of them.
        protected: Whether nothing may delete it.
        limit: The limit that demands it; empty when no policy kept it in the first place.
    """

    record: Record
    action: Action
    reasons: tuple[str, ...]
    protected: bool = False
    limit: str = ""

    @property
    def keep(self) -> bool:
        """Whether it stays, whole or thinned."""
        return self.action != "delete"

    @property
    def reason(self) -> str:
        """All reasons in one line."""
        return "; ".join(self.reasons)

    @property
    def frees(self) -> int:
        """Bytes."""
        freed = {"keep": 0, "thin": self.record.disposable, "delete": self.record.bytes}[self.action]
        return freed or 0


class DiskState(Struct, frozen=True, kw_only=True):
    """One file system as it is now; ``trash`` is what our trash on it holds, ``directories`` the parents of checkpoints that are on it."""

    name: str
    total: int
    free: int
    trash: int = 0
    directories: frozenset[str] = frozenset()


class Unmet(Struct, frozen=True, kw_only=True):
    """A limit that can't be met without touching what is protected: the bytes that are missing, and by reason those in the way."""

    limit: str
    missing: int
    in_the_way: dict[str, int] = field(default_factory=dict)


class Plan(Struct, frozen=True, kw_only=True):
    """All decisions by run and step; bytes of trash that each disk needs emptied at once; limits that can't be met."""

    decisions: list[Decision]
    empty: dict[str, int] = field(default_factory=dict)
    unmet: list[Unmet] = field(default_factory=list)

    @property
    def frees(self) -> int:
        """Bytes that go when the plan is done."""
        return sum(decision.frees for decision in self.decisions)


class _Draft(Struct, gc=False):
    """A checkpoint that a policy keeps or that is protected, while the plan is made. ``rank``: its number in its run, 1 for the newest."""

    record: Record
    reasons: Sequence[str]
    protection: Sequence[str]
    action: Action
    rank: int
    limit: str = ""

    @property
    def size(self) -> int:
        """Bytes that it takes when the plan is done."""
        if self.action == "delete":
            return 0
        return (self.record.bytes or 0) - (self.record.disposable or 0 if self.action == "thin" else 0)


def plan(records: Iterable[Record], config: RetentionConfig, now: int, marks: Marks | None = None, disks: Sequence[DiskState] = ()) -> Plan:
    """Decide over complete checkpoints of any number of runs.

    Args:
        records: All that are in their places, in any order.
        config: Policies and limits.
        now: Nanoseconds since the epoch.
        marks: By checkpoint id: reasons to keep it whatever the policies say.
        disks: For the disk floor.
    """
    with _uncollected():
        return _plan(records, config, now, marks or {}, disks)


@contextmanager
def _uncollected() -> Iterator[None]:
    """A plan makes hundreds of thousands of objects and no cycle: looking for cycles among them takes a quarter of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _plan(records: Iterable[Record], config: RetentionConfig, now: int, marks: Marks, disks: Sequence[DiskState]) -> Plan:
    runs: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        runs[record.run].append(record)
    ordered = {run: _ordered(runs[run]) for run in sorted(runs)}
    across = _across([record for of_run in ordered.values() for record in of_run], config, now) if config.keep_across else {}
    by_run = {run: _run(of_run, config, now, marks, across) for run, of_run in ordered.items()}
    drafts = {draft.record.id: draft for of_run in by_run.values() for draft in of_run}
    unmet = _limits(by_run, list(drafts.values()), config)
    empty: dict[str, int] = {}
    for disk in disks:
        unmet += _floor(ordered.values(), drafts, config, disk, empty)
    no_reason = (why_not_kept(config),)
    decisions = [
        _decided(draft) if (draft := drafts.get(record.id)) is not None else Decision(record=record, action="delete", reasons=no_reason)
        for of_run in ordered.values()
        for record in of_run
    ]
    return Plan(decisions=decisions, empty=empty, unmet=unmet)


def _ordered(of_run: list[Record]) -> list[Record]:
    """By `position`. Steps of a run are unique unless it went back, and sorting by them alone takes a third of the time."""
    of_run.sort(key=attrgetter("step"))
    return of_run if len({record.step for record in of_run}) == len(of_run) else sorted(of_run, key=position)


def why_not_kept(config: RetentionConfig) -> str:
    """In words, what a checkpoint is not that no policy keeps."""
    kinds = [f"not among the newest {config.keep_newest}"]
    if config.keep_every:
        kinds.append(f"not one of every {config.keep_every} steps")
    if config.keep_best:
        kinds.append(f"not best by {', '.join(policy.metric for policy in config.keep_best)}")
    names = dict.fromkeys(str(policy.__struct_config__.tag) for policy in (*config.keep, *config.keep_across))
    if names:
        kinds.append(f"not kept by {', '.join(names)}")
    return ", ".join(kinds)


def _run(of_run: list[Record], config: RetentionConfig, now: int, marks: Marks, across: Mapping[str, list[str]]) -> list[_Draft]:
    reasons: dict[str, list[str]] = {record.id: list(across[record.id]) for record in of_run if record.id in across}
    leaders: dict[tuple[str, str], tuple[str, str] | None] = {}
    whole = [record for record in of_run if not record.faults]
    steps = (Steps(every=config.keep_every),) if config.keep_every else ()
    for policy in (Newest(count=config.keep_newest), *steps, *config.keep_best, *config.keep):
        found = kept(policy, whole, now)
        for identity, reason in found.items():
            reasons.setdefault(identity, []).append(reason)
        if isinstance(policy, Best | BestConfig):  # ranking once is enough
            first = next(iter(found.items()), None)
            leaders[policy.metric, policy.direction] = first if first and first[1].startswith("best by ") else None
    protection = protected(of_run, config, now, marks, leaders)
    stays = reasons.keys() | protection.keys()
    drafts = [
        _Draft(record, reasons.get(record.id, ()), protection.get(record.id, ()), "keep", rank)
        for rank, record in zip(range(len(of_run), 0, -1), of_run, strict=True)
        if record.id in stays
    ]
    if config.thin == "always":
        for draft in _thinnable(drafts, config):
            draft.action = "thin"
            draft.limit = "thin"
    return drafts


def _across(ordered: Sequence[Record], config: RetentionConfig, now: int) -> dict[str, list[str]]:
    whole = sorted([record for record in ordered if not record.faults], key=position)
    found: dict[str, list[str]] = {}
    for policy in config.keep_across:
        for identity, reason in kept(policy, whole, now).items():
            found.setdefault(identity, []).append(f"across runs: {reason}")
    return found


def _limits(by_run: Mapping[str, list[_Draft]], drafts: list[_Draft], config: RetentionConfig) -> list[Unmet]:
    unmet = []
    if config.max_bytes_per_run:
        for run, of_run in by_run.items():
            name = f"{run} may take {config.max_bytes_per_run:,} bytes"
            unmet += _make_room(of_run, config, _size(of_run) - config.max_bytes_per_run, name)
    if config.max_bytes:
        name = f"all checkpoints may take {config.max_bytes:,} bytes"
        unmet += _make_room(drafts, config, _size(drafts) - config.max_bytes, name)
    return unmet


def _size(drafts: Sequence[_Draft]) -> int:
    """Bytes that all take together when the plan is done."""
    return sum([draft.size for draft in drafts if draft.action != "delete"])


def floor_of(disk: DiskState, config: RetentionConfig) -> int:
    """Bytes that shall be free on it."""
    return max(config.min_free_bytes, int(disk.total * config.min_free_percent / 100))


def _floor(
    runs: Iterable[Sequence[Record]], drafts: Mapping[str, _Draft], config: RetentionConfig, disk: DiskState, empty: dict[str, int]
) -> list[Unmet]:
    """What is put into the trash frees nothing by itself: it has to be emptied at once, so it is counted as trash to empty."""
    floor = floor_of(disk, config)
    missing = floor - disk.free
    if missing <= 0:
        return []
    here = [record for of_run in runs for record in of_run if (record.path.rpartition("/")[0] or "/") in disk.directories]
    stays = [draft for record in here if (draft := drafts.get(record.id)) is not None]
    whole = sum([record.bytes or 0 for record in here])
    name = f"{disk.name} shall have {floor:,} bytes free"
    unmet = _make_room(stays, config, missing - disk.trash - (whole - _size(stays)), name)
    empty[disk.name] = min(missing, disk.trash + whole - _size(stays))
    return unmet


def _make_room(drafts: Sequence[_Draft], config: RetentionConfig, missing: int, name: str) -> list[Unmet]:
    """Take more until nothing is missing; returns what stands in the way when that does not suffice."""
    if missing <= 0:
        return []
    first = _largest if config.order == "largest" else _age
    if config.thin == "limits":
        for draft in sorted(_thinnable(drafts, config), key=first):
            if missing <= 0:
                return []
            draft.action, draft.limit = "thin", name
            missing -= draft.record.disposable or 0
    for draft in sorted([draft for draft in drafts if draft.action != "delete" and not draft.protection], key=first):
        if missing <= 0:
            return []
        missing -= draft.size
        draft.action, draft.limit = "delete", name
    if missing <= 0:
        return []
    ways: Counter[str] = Counter()
    for draft in drafts:
        for reason in draft.protection:
            ways[reason] += draft.size
    return [Unmet(limit=name, missing=missing, in_the_way=dict(ways.most_common(20)))]


def _thinnable(drafts: Sequence[_Draft], config: RetentionConfig) -> list[_Draft]:
    """Kept ones that are old enough in steps, and that nothing but a good metric protects: their weights are what is good."""
    newest = config.thin_keep_newest
    return [
        draft
        for draft in drafts
        if draft.action == "keep"
        and draft.rank > newest
        and draft.record.disposable
        and all(reason.startswith("best by ") for reason in draft.protection)
    ]


def _decided(draft: _Draft) -> Decision:
    """What is kept, and what a limit takes."""
    reasons: tuple[str, ...] = (*draft.protection, *draft.reasons)
    if len(reasons) > 1:
        reasons = tuple(dict.fromkeys(reasons))
    if draft.action == "delete":
        reasons = (f"{draft.limit}, and it is the next to go", *reasons)
    elif draft.action == "thin":
        reasons = (f"its optimizer state goes: {draft.limit}" if draft.limit != "thin" else "its optimizer state goes", *reasons)
    forced = draft.limit if draft.action == "delete" else ""
    return Decision(record=draft.record, action=draft.action, reasons=reasons, protected=bool(draft.protection), limit=forced)


def _largest(draft: _Draft) -> int:
    return -draft.size


_age: Callable[[_Draft], Any] = attrgetter("record.time", "record.step", "record.id")
