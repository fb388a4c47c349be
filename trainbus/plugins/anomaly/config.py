"""``[plugin.anomaly]``: which rules, with which thresholds, and what is done when one speaks.

Metrics are named exactly or by a shell pattern (``*``, ``?``, ``[...]``; ``*`` also matches ``/``). The names are those of
`trainbus.plugins.anomaly.observations`: a step's metrics as they are, ``eval/loss`` or ``eval/DATASET/loss`` for evaluations,
``rank3/loss`` for other ranks than 0.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct, field

from trainbus.bus.events import Severity
from trainbus.plugins.anomaly.catalogue import RulesConfig
from trainbus.plugins.anomaly.rules.base import AnyRule

Preset: TypeAlias = Literal["default", "classic", "both", "none"]


class SnapshotConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.snapshot]``: the last complete checkpoint before an incident is kept.

    Args:
        severities: Alerts of these severities keep a checkpoint.
        rules: Alerts of these rules do so too, whatever their severity.
        next: The next complete checkpoint after the incident is kept, too.
        daily: Local time (hh:mm) at which the newest checkpoint of every running run is kept once a day; empty for never.
        directory: Where to; empty for ``snapshots/`` beside the checkpoint root.
        min_free_bytes: So much must stay free on that disk.
        events: So many of the last events before the alert are kept beside it,
        events_after: and so many of those that follow it, as soon as they are there or the run has ended.
        keep_days: Older snapshots are removed, but for those of best models; 0 for never.
    """

    enabled: bool = True
    severities: tuple[Severity, ...] = ("critical",)
    rules: tuple[str, ...] = ()
    next: bool = False
    daily: Annotated[str, Meta(pattern=r"^$|^([01]\d|2[0-3]):[0-5]\d$")] = ""
    directory: str = ""
    min_free_bytes: Annotated[int, Meta(ge=0)] = 10 * 1024**3
    events: Annotated[int, Meta(ge=0, le=10_000)] = 200
    events_after: Annotated[int, Meta(ge=0, le=10_000)] = 100
    keep_days: Annotated[float, Meta(ge=0, le=36_500)] = 0.0


class ActionConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One table ``[[plugin.anomaly.actions]]``: what is done when an alert fits.

    Args:
        do: The command.
        rules: Rules that it is for; empty for all.
        severities: Of the alert.
        factor: With ``set_learning_rate``: the present learning rate is multiplied by it.
        once: At most once a run; otherwise at most every ``pause`` steps.
        pause: Steps between two.
        min_score: Only from this score on: 1.0 for a loss spike is +100 %.
        dry_run: Only say what would have been done.
    """

    do: Literal["pause", "stop", "save", "evaluate", "set_learning_rate"]
    rules: tuple[str, ...] = ()
    severities: tuple[Severity, ...] = ("critical",)
    factor: Annotated[float, Meta(gt=0, le=10)] = 0.5
    once: bool = True
    pause: Annotated[int, Meta(ge=0)] = 500
    min_score: Annotated[float, Meta(ge=0)] = 0.0
    dry_run: bool = False


class FiguresConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.figures]``: running figures as metric events.

    Args:
        every: Steps between two of each.
    """

    enabled: bool = True
    every: Annotated[int, Meta(ge=1, le=100_000)] = 10


class AnomalyConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly]``.

    Args:
        preset: Which rules are on where their own table does not say: the robust ones (default), fixed thresholds (classic), both, none.
    """

    preset: Preset = "default"
    rules: RulesConfig = field(default_factory=RulesConfig)
    snapshot: SnapshotConfig = field(default_factory=SnapshotConfig)
    actions: tuple[ActionConfig, ...] = ()
    figures: FiguresConfig = field(default_factory=FiguresConfig)

    def active_rules(self) -> list[AnyRule]:
        """The rules that are switched on, in the order in which they speak."""
        return self.rules.active(self.preset)
