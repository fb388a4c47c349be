"""The plan: what happens to each checkpoint and why. Policies first, then limits; protected checkpoints are touched by neither.

Order in which things go when a limit demands room: what already lies in the trash (for the disk floor, oldest first), what no policy
keeps, optimizer states (where ``thin`` allows it), then what only policies keep. Within each, ``order`` decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """One checkpoint while the plan is made."""

    record: Record
    reasons: Sequence[str]
    protection: Sequence[str]
    action: Action
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
    runs: dict[str, list[Record]] = {}
    for record in sorted(records, key=position):
        runs.setdefault(record.run, []).append(record)
    across = _across([record for of_run in runs.values() for record in of_run], config, now) if config.keep_across else {}
    drafts: list[_Draft] = []
    for _, of_run in sorted(runs.items()):
        drafts += _run(of_run, config, now, marks or {}, across)
    unmet = _limits(drafts, config)
    empty: dict[str, int] = {}
    for disk in disks:
        unmet += _floor(drafts, config, disk, empty)
    no_reason = (why_not_kept(config),)
    decisions = [_decided(draft, no_reason) for draft in drafts]
    return Plan(decisions=decisions, empty=empty, unmet=unmet)


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
    leaders: dict[tuple[str, str], tuple[str, str]] = {}
    whole = [record for record in of_run if not record.faults]
    steps = (Steps(every=config.keep_every),) if config.keep_every else ()
    for policy in (Newest(count=config.keep_newest), *steps, *config.keep_best, *config.keep):
        found = kept(policy, whole, now)
        for identity, reason in found.items():
            reasons.setdefault(identity, []).append(reason)
        if isinstance(policy, Best | BestConfig) and (first := next(iter(found.items()), None)) and first[1].startswith("best by "):
            leaders[policy.metric, policy.direction] = first  # ranking once is enough
    protection = protected(of_run, config, now, marks, leaders)
    drafts = []
    for record in of_run:
        why, never = reasons.get(record.id, ()), protection.get(record.id, ())
        drafts.append(_Draft(record, why, never, "keep" if why or never else "delete"))
    if config.thin == "always":
        for draft in _thinnable(drafts, config):
            draft.action = "thin"
            draft.limit = "thin"
    return drafts


def _across(ordered: Sequence[Record], config: RetentionConfig, now: int) -> dict[str, list[str]]:
    whole = sorted((record for record in ordered if not record.faults), key=position)
    found: dict[str, list[str]] = {}
    for policy in config.keep_across:
        for identity, reason in kept(policy, whole, now).items():
            found.setdefault(identity, []).append(f"across runs: {reason}")
    return found


def _limits(drafts: list[_Draft], config: RetentionConfig) -> list[Unmet]:
    unmet = []
    if config.max_bytes_per_run:
        runs: dict[str, list[_Draft]] = {}
        for draft in drafts:
            runs.setdefault(draft.record.run, []).append(draft)
        for run, of_run in runs.items():
            name = f"{run} may take {config.max_bytes_per_run:,} bytes"
            unmet += _make_room(of_run, config, sum(draft.size for draft in of_run) - config.max_bytes_per_run, name)
    if config.max_bytes:
        name = f"all checkpoints may take {config.max_bytes:,} bytes"
        unmet += _make_room(drafts, config, sum(draft.size for draft in drafts) - config.max_bytes, name)
    return unmet


def _floor(drafts: list[_Draft], config: RetentionConfig, disk: DiskState, empty: dict[str, int]) -> list[Unmet]:
    """What is put into the trash frees nothing by itself: it has to be emptied at once, so it is counted as trash to empty."""
    floor = max(config.min_free_bytes, int(disk.total * config.min_free_percent / 100))
    missing = floor - disk.free
    if missing <= 0:
        return []
    here = [draft for draft in drafts if _parent(draft.record) in disk.directories]
    going = sum((draft.record.bytes or 0) - draft.size for draft in here)
    name = f"{disk.name} shall have {floor:,} bytes free"
    unmet = _make_room(here, config, missing - disk.trash - going, name)
    freed = sum((draft.record.bytes or 0) - draft.size for draft in here)
    empty[disk.name] = min(missing, disk.trash + freed)
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
    for draft in sorted((draft for draft in drafts if draft.action != "delete" and not draft.protection), key=first):
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
    newest: Counter[str] = Counter()
    found = []
    for draft in reversed(drafts):  # of each run the newest first
        newest[draft.record.run] += 1
        old = newest[draft.record.run] > config.thin_keep_newest
        only_best = all(reason.startswith("best by ") for reason in draft.protection)
        if old and only_best and draft.action == "keep" and draft.record.disposable:
            found.append(draft)
    return found


def _decided(draft: _Draft, no_reason: tuple[str, ...]) -> Decision:
    if draft.action == "delete" and not draft.limit:
        return Decision(record=draft.record, action="delete", reasons=no_reason)
    reasons: tuple[str, ...] = tuple(dict.fromkeys((*draft.protection, *draft.reasons)))
    if draft.action == "delete":
        reasons = (f"{draft.limit}, and it is the next to go", *reasons)
    elif draft.action == "thin":
        reasons = (f"its optimizer state goes: {draft.limit}" if draft.limit != "thin" else "its optimizer state goes", *reasons)
    forced = draft.limit if draft.action == "delete" else ""
    return Decision(record=draft.record, action=draft.action, reasons=reasons, protected=bool(draft.protection), limit=forced)


def _largest(draft: _Draft) -> int:
    return -draft.size


_age: Callable[[_Draft], Any] = attrgetter("record.time", "record.step", "record.id")


def _parent(record: Record) -> str:
    return record.path.rstrip("/").rpartition("/")[0] or "/"
