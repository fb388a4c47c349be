"""``[plugin.retention]``: which checkpoints are kept, which limits hold, and whether anything really goes."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from trainbus.plugins.retention.policies import AnyPolicy, BestConfig

DEFAULT_BEST = (
    BestConfig(metric="loss"),
    BestConfig(metric="eval_loss"),
    BestConfig(metric="accuracy", direction="max"),
)
"""Metrics that most trainers have; one that no checkpoint has keeps nothing."""


class RetentionConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.retention]``. What any policy keeps is kept, until a limit demands room.

    Args:
        dry_run: True only says what would be deleted.
        keep_newest: So many newest complete checkpoints of a run.
        keep_every: Checkpoints at multiples of this step; 0 for none. Where steps are no multiples: the first at or after each multiple.
        keep_best: The best by metrics, each with a direction and a count. The very best by each is protected from limits, too.
        keep: More policies, applied to each run by itself.
        keep_across: Policies applied to the checkpoints of all runs of this host together.
        min_age: Seconds that a checkpoint is safe after it was completed: time for its evaluations to arrive.
        min_evaluations: A checkpoint with fewer finished evaluations is never deleted.
        max_bytes: Bytes that all checkpoints of this host may take; 0 for any number.
        max_bytes_per_run: Bytes that the checkpoints of one run may take; 0 for any number.
        min_free_bytes: A file system with checkpoints shall have so many bytes free; 0 for none.
        min_free_percent: As min_free_bytes, as a part of the file system's size. The larger of both holds.
        warn_free_bytes: Below so many free bytes people are warned, long before anything goes; 0 for never.
        order: Which goes first when a limit demands room.
        thin: Whether optimizer states are dropped and the weights kept: never, when a limit demands room, or always.
        thin_keep_newest: So many newest of a run keep their optimizer states in any case.
        trash_grace: Seconds that a deleted checkpoint can be restored; less when the disk floor demands room.
        trash_bytes_per_second: The trash is emptied no faster, so that training's own writes don't stall.
        verify: Whether the newest checkpoint is read and compared with its digests before an older one goes.
        interval: Seconds between two looks at what could go.
        roots: Only checkpoints below these directories are ever touched; empty for wherever a run puts them.
        backup_to: Directory or fsspec address that versions are copied to; empty for no backups.
        backup_every: Seconds between two looks at which versions have no backup yet.
        versions: Directories of versions that are backed up.
        promote_at: Local time, as 03:00, at which a checkpoint of each run becomes a version, adapters merged; empty for never.
        promote: Which one: the best by the first metric of keep_best that is known, or the newest.
    """

    dry_run: bool = True
    keep_newest: Annotated[int, Meta(ge=1, le=100_000)] = 5
    keep_every: Annotated[int, Meta(ge=0)] = 0
    keep_best: tuple[BestConfig, ...] = DEFAULT_BEST
    keep: tuple[AnyPolicy, ...] = ()
    keep_across: tuple[AnyPolicy, ...] = ()
    min_age: Annotated[float, Meta(ge=0)] = 600.0
    min_evaluations: Annotated[int, Meta(ge=0)] = 0
    max_bytes: Annotated[int, Meta(ge=0)] = 0
    max_bytes_per_run: Annotated[int, Meta(ge=0)] = 0
    min_free_bytes: Annotated[int, Meta(ge=0)] = 0
    min_free_percent: Annotated[float, Meta(ge=0, le=100)] = 0.0
    warn_free_bytes: Annotated[int, Meta(ge=0)] = 0
    order: Literal["oldest", "largest"] = "oldest"
    thin: Literal["never", "limits", "always"] = "never"
    thin_keep_newest: Annotated[int, Meta(ge=1)] = 3
    trash_grace: Annotated[float, Meta(ge=0)] = 86_400.0
    trash_bytes_per_second: Annotated[float, Meta(gt=0)] = 256e6
    verify: bool = True
    interval: Annotated[float, Meta(ge=0.1, le=86_400)] = 10.0
    roots: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    backup_to: str = ""
    backup_every: Annotated[float, Meta(ge=1)] = 86_400.0
    versions: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    promote_at: Annotated[str, Meta(pattern="^(([01][0-9]|2[0-3]):[0-5][0-9])?$")] = ""
    promote: Literal["best", "newest"] = "best"

    def __post_init__(self) -> None:
        """Merging what has no backup would leave one copy of everything."""
        if self.promote_at and not self.backup_to:
            raise ValueError("promote_at needs backup_to: nothing is merged before it has a backup")
