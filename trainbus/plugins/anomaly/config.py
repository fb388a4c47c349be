"""``[plugin.anomaly]``: every rule with its metrics, thresholds and severity, and what is kept when one fires.

Metrics are named exactly or by a shell pattern (``*``, ``?``, ``[...]``; ``*`` also matches ``/``). The names are those of
`trainbus.plugins.anomaly.observations`: a step's metrics as they are, ``eval/loss`` or ``eval/DATASET/loss`` for evaluations,
``rank3/loss`` for other ranks than 0.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from trainbus.bus.events import Severity
from trainbus.plugins.anomaly.rules import best, divergence, finite, gradients, learning, plateau, schedule, spike
from trainbus.plugins.anomaly.rules.base import AnyRule


class RulesConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules]``: one table for each rule."""

    non_finite: finite.NonFiniteConfig = field(default_factory=finite.NonFiniteConfig)
    loss_spike: spike.LossSpikeConfig = field(default_factory=spike.LossSpikeConfig)
    divergence: divergence.DivergenceConfig = field(default_factory=divergence.DivergenceConfig)
    grad_spike: gradients.GradSpikeConfig = field(default_factory=gradients.GradSpikeConfig)
    grad_vanishing: gradients.GradVanishingConfig = field(default_factory=gradients.GradVanishingConfig)
    clipping_saturated: gradients.ClippingConfig = field(default_factory=gradients.ClippingConfig)
    lr_glitch: schedule.LearningRateConfig = field(default_factory=schedule.LearningRateConfig)
    plateau: plateau.PlateauConfig = field(default_factory=plateau.PlateauConfig)
    stuck_loss: finite.StuckConfig = field(default_factory=finite.StuckConfig)
    overfit: learning.OverfitConfig = field(default_factory=learning.OverfitConfig)
    accuracy_drop: learning.AccuracyDropConfig = field(default_factory=learning.AccuracyDropConfig)
    new_best: best.NewBestConfig = field(default_factory=best.NewBestConfig)

    def enabled(self) -> list[AnyRule]:
        """The rules that are switched on, in the order in which they speak."""
        classes: dict[str, type[AnyRule]] = {
            rule.name: rule
            for rule in (
                finite.NonFinite, spike.LossSpike, divergence.Divergence, gradients.GradSpike, gradients.GradVanishing,
                gradients.ClippingSaturated, schedule.LearningRateGlitch, plateau.Plateau, finite.StuckLoss, learning.Overfit,
                learning.AccuracyDrop, best.NewBest,
            )
        }  # fmt: skip
        rules = [classes[name](getattr(self, name)) for name in self.__struct_fields__]
        return [rule for rule in rules if rule.config.enabled is not False]


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
    rules: tuple[str, ...] = ()
    directory: str = ""
    min_free_bytes: Annotated[int, Meta(ge=0)] = 10 * 1024**3


class AnomalyConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly]``."""

    rules: RulesConfig = field(default_factory=RulesConfig)
    snapshot: SnapshotConfig = field(default_factory=SnapshotConfig)

    def active_rules(self) -> list[AnyRule]:
        """The rules that are switched on, in the order in which they speak."""
        return self.rules.enabled()
