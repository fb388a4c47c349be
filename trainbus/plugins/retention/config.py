"""``[plugin.retention]``: which checkpoints are kept, and whether the others really go."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct


class BestConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[[plugin.retention.keep_best]]``: the ``count`` best by a metric of the checkpoint or of an evaluation of it."""

    metric: Annotated[str, Meta(min_length=1)]
    direction: Literal["min", "max"] = "min"
    count: Annotated[int, Meta(ge=1, le=10_000)] = 1


DEFAULT_BEST = (
    BestConfig(metric="loss"),
    BestConfig(metric="eval_loss"),
    BestConfig(metric="accuracy", direction="max"),
)
"""Metrics that most trainers have; one that no checkpoint has keeps nothing."""


class RetentionConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.retention]``. What any policy keeps is kept.

    Args:
        dry_run: True only says what would be deleted.
        keep_newest: So many newest complete checkpoints of a run.
        keep_every: Checkpoints at multiples of this step; 0 for none. Where steps are no multiples: the first at or after each multiple.
        keep_best: The best by metrics, each with a direction and a count.
        min_age: Seconds that a checkpoint is safe after it was completed: time for its evaluations to arrive.
        interval: Seconds between two looks at what could go.
        roots: Only checkpoints below these directories are ever touched; empty for wherever a run puts them.
    """

    dry_run: bool = True
    keep_newest: Annotated[int, Meta(ge=1, le=100_000)] = 5
    keep_every: Annotated[int, Meta(ge=0)] = 0
    keep_best: tuple[BestConfig, ...] = DEFAULT_BEST
    min_age: Annotated[float, Meta(ge=0)] = 600.0
    interval: Annotated[float, Meta(ge=0.1, le=86_400)] = 10.0
    roots: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
