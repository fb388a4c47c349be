"""The policies of ``[[plugin.retention.keep]]``: each names checkpoints that stay. They compose with ``any_of`` and ``all_of``."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

Count: TypeAlias = Annotated[int, Meta(ge=1, le=1_000_000)]
Seconds: TypeAlias = Annotated[float, Meta(gt=0)]


class BestConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[[plugin.retention.keep_best]]``: the ``count`` best by a metric of the checkpoint or of an evaluation of it.

    Args:
        metric: ``accuracy`` for the latest of any data set, ``gsm8k/accuracy`` for that of one.
        unmeasured: True also keeps checkpoints without the metric.
        wait: Seconds that a checkpoint without the metric is kept for it to arrive.
    """

    metric: Annotated[str, Meta(min_length=1)]
    direction: Literal["min", "max"] = "min"
    count: Count = 1
    unmeasured: bool = False
    wait: Annotated[float, Meta(ge=0)] = 0.0


class Policy(Struct, tag_field="policy", kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What all policies have in common: a name."""


class All(Policy, tag="all", kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Every checkpoint."""


class Newest(Policy, tag="newest", kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The ``count`` newest."""

    count: Count


class Steps(Policy, tag="steps", kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One each ``every`` steps, of these the ``count`` newest (0: all).

    ``first`` takes the first at or after each multiple, ``closest`` the nearest to each multiple, ``exact`` multiples alone, and ``spaced``
    the first checkpoint and then each that is at least so many steps after the last taken.
    """

    every: Count
    take: Literal["first", "closest", "exact", "spaced"] = "first"
    count: Annotated[int, Meta(ge=0)] = 0


class At(Policy, tag="at", kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Those at the named steps."""

    steps: tuple[Annotated[int, Meta(ge=0)], ...]


class Tier(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One tier: it takes one each ``every`` steps (0: all) until it has ``count``, or has seen ``of`` checkpoints; without both, all that
    are left."""

    every: Annotated[int, Meta(ge=0)] = 0
    count: Annotated[int, Meta(ge=0)] = 0
    of: Annotated[int, Meta(ge=0)] = 0


class Tiers(Policy, tag="tiers", kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Thinner with age: each tier goes on, from new to old, where the one before ended."""

    tiers: Annotated[tuple[Tier, ...], Meta(min_length=1)]


class Best(Policy, tag="best", kw_only=True, frozen=True, forbid_unknown_fields=True):
    """As ``keep_best``, where it is to be combined with others."""

    metric: Annotated[str, Meta(min_length=1)]
    direction: Literal["min", "max"] = "min"
    count: Count = 1
    unmeasured: bool = False
    wait: Annotated[float, Meta(ge=0)] = 0.0


class Period(Policy, tag="period", kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The newest of each hour, day, week (from Monday) or month, in UTC; of the ``count`` newest periods that have any (0: all)."""

    each: Literal["hour", "day", "week", "month"]
    count: Annotated[int, Meta(ge=0)] = 0


class Interval(Policy, tag="interval", kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The oldest, then each that is at least so many seconds after the last taken."""

    seconds: Seconds


class Newer(Policy, tag="newer", kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Those completed less than so many seconds ago."""

    seconds: Seconds


class AnyOf(Policy, tag="any_of", kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What any of the policies keeps."""

    policies: Annotated[tuple[AnyPolicy, ...], Meta(min_length=1)]


class AllOf(Policy, tag="all_of", kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What every one of the policies keeps."""

    policies: Annotated[tuple[AnyPolicy, ...], Meta(min_length=1)]


AnyPolicy: TypeAlias = All | Newest | Steps | At | Tiers | Best | Period | Interval | Newer | AnyOf | AllOf
