"""``[plugin.anomaly]``: every rule with its metrics, thresholds and severity, and what is kept when one fires.

Metrics are named exactly or by a shell pattern (``*``, ``?``, ``[...]``; ``*`` also matches ``/``). The names are those of
`trainbus.plugins.anomaly.observations`: a step's metrics as they are, ``eval/loss`` or ``eval/DATASET/loss`` for evaluations,
``rank3/loss`` for other ranks than 0.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct, field

from trainbus.bus.events import Severity

RuleName: TypeAlias = Literal["non_finite", "loss_spike", "z_score", "new_best"]
Pattern: TypeAlias = Annotated[str, Meta(min_length=1)]
Samples: TypeAlias = Annotated[int, Meta(ge=2, le=1_000)]
Steps: TypeAlias = Annotated[int, Meta(ge=1, le=100_000)]


class RuleConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What every rule can be told.

    Args:
        enabled: False switches the rule off.
        metrics: Names or patterns of the series that it watches.
        severity: Of its alerts.
        clear_after: So many quiet values in a row end an incident.
    """

    enabled: bool = True
    metrics: tuple[Pattern, ...] = ("loss",)
    severity: Severity = "warning"
    clear_after: Steps = 10


class NonFiniteConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.non_finite]``: a NaN or an infinity."""

    metrics: tuple[Pattern, ...] = ("*loss", "*grad_norm")
    severity: Severity = "critical"


class LossSpikeConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.loss_spike]``: value > (1 + threshold) x mean of the ``window`` values before it.

    Args:
        skip_signed: Leave a series alone once it has been negative: relative thresholds mean nothing around 0.
        adapt_after: So many values in a row above the threshold become the new normal.
    """

    threshold: Annotated[float, Meta(gt=0, le=1_000)] = 0.3
    window: Samples = 5
    skip_signed: bool = True
    adapt_after: Steps = 50


class ZScoreConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.z_score]``: further than ``threshold`` standard deviations from the mean of the values before.

    Args:
        side: "above" for series where only high is bad; "both" for \\|z\\|.
        min_samples: So many values are needed before the rule says anything.
        relative_floor: The standard deviation counts as at least this part of the mean.
        adapt_after: So many outliers in a row become the new normal.
    """

    metrics: tuple[Pattern, ...] = ("loss", "grad_norm")
    severity: Severity = "info"
    threshold: Annotated[float, Meta(gt=0, le=1_000)] = 3.0
    window: Samples = 50
    min_samples: Samples = 10
    side: Literal["above", "below", "both"] = "above"
    relative_floor: Annotated[float, Meta(ge=0, le=1)] = 0.01
    adapt_after: Steps = 50


class NewBestConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.new_best]``: better than the best so far by more than ``min_improvement`` of it."""

    metrics: tuple[Pattern, ...] = ("eval/*loss",)
    severity: Severity = "info"
    direction: Literal["min", "max"] = "min"
    min_improvement: Annotated[float, Meta(ge=0, lt=1)] = 0.02


class RulesConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules]``: one table for each rule."""

    non_finite: NonFiniteConfig = field(default_factory=NonFiniteConfig)
    loss_spike: LossSpikeConfig = field(default_factory=LossSpikeConfig)
    z_score: ZScoreConfig = field(default_factory=ZScoreConfig)
    new_best: NewBestConfig = field(default_factory=NewBestConfig)


class SnapshotConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.snapshot]``: the last complete checkpoint before an incident is kept.

    Args:
        severities: Alerts of these severities keep a checkpoint.
        rules: Alerts of these rules do so too, whatever their severity.
        directory: Where to; empty for ``snapshots/`` beside the checkpoint root.
        min_free_bytes: So much must stay free on that disk.
    """

    enabled: bool = True
    severities: tuple[Severity, ...] = ("critical",)
    rules: tuple[RuleName, ...] = ()
    directory: str = ""
    min_free_bytes: Annotated[int, Meta(ge=0)] = 10 * 1024**3


class AnomalyConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly]``."""

    rules: RulesConfig = field(default_factory=RulesConfig)
    snapshot: SnapshotConfig = field(default_factory=SnapshotConfig)
