"""Every rule by name with its parameters: the tables ``[plugin.anomaly.rules.NAME]``."""

from __future__ import annotations

from msgspec import Struct, field

from trainbus.plugins.anomaly.rules import (
    best,
    divergence,
    finite,
    gradients,
    learning,
    limits,
    plateau,
    samples,
    schedule,
    shift,
    speed,
    spike,
    trends,
    windows,
)
from trainbus.plugins.anomaly.rules.base import AnyRule

ALL_RULES: tuple[type[AnyRule], ...] = (
    finite.NonFinite,
    finite.StuckLoss,
    spike.LossSpike,
    divergence.Divergence,
    gradients.GradSpike,
    gradients.GradVanishing,
    gradients.ClippingSaturated,
    schedule.LearningRateGlitch,
    plateau.Plateau,
    learning.Overfit,
    learning.AccuracyDrop,
    shift.Outlier,
    shift.LevelShift,
    speed.ThroughputLoss,
    speed.Straggler,
    speed.StalledRun,
    samples.CorrectButUnsure,
    samples.WrongButSure,
    samples.InvertedLoss,
    samples.Calibration,
    best.NewBest,
    limits.Limit,
    limits.GradAbove,
    limits.GradFarAbove,
    limits.GradBelow,
    limits.RateHigh,
    limits.RateLow,
    limits.VramUnused,
    limits.MemoryHigh,
    limits.MemoryFull,
    limits.DataLarge,
    limits.DataFlat,
    limits.MaskedRatio,
    windows.SpikeOverMean,
    windows.SpikeTenfold,
    windows.ZScore,
    windows.LossZScore,
    windows.RateZScore,
    windows.AccuracyPoints,
    trends.RisingLoss,
    trends.FlatLoss50,
    trends.FlatLoss20,
    trends.FlatLossStrict,
    trends.LossVariance,
    trends.LossOscillation,
    trends.LossTenfold,
    trends.LossUpward,
    trends.ValidationGap,
    trends.MemoryLeak,
    trends.Hang,
)
"""In the order in which they speak."""


class RulesConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules]``: one table for each rule."""

    non_finite: finite.NonFiniteConfig = field(default_factory=finite.NonFiniteConfig)
    stuck_loss: finite.StuckConfig = field(default_factory=finite.StuckConfig)
    loss_spike: spike.LossSpikeConfig = field(default_factory=spike.LossSpikeConfig)
    divergence: divergence.DivergenceConfig = field(default_factory=divergence.DivergenceConfig)
    grad_spike: gradients.GradSpikeConfig = field(default_factory=gradients.GradSpikeConfig)
    grad_vanishing: gradients.GradVanishingConfig = field(default_factory=gradients.GradVanishingConfig)
    clipping_saturated: gradients.ClippingConfig = field(default_factory=gradients.ClippingConfig)
    lr_glitch: schedule.LearningRateConfig = field(default_factory=schedule.LearningRateConfig)
    plateau: plateau.PlateauConfig = field(default_factory=plateau.PlateauConfig)
    overfit: learning.OverfitConfig = field(default_factory=learning.OverfitConfig)
    accuracy_drop: learning.AccuracyDropConfig = field(default_factory=learning.AccuracyDropConfig)
    outlier: shift.OutlierConfig = field(default_factory=shift.OutlierConfig)
    level_shift: shift.LevelShiftConfig = field(default_factory=shift.LevelShiftConfig)
    throughput_loss: speed.ThroughputConfig = field(default_factory=speed.ThroughputConfig)
    straggler: speed.StragglerConfig = field(default_factory=speed.StragglerConfig)
    stalled_run: speed.StalledConfig = field(default_factory=speed.StalledConfig)
    correct_but_unsure: samples.SurprisedConfig = field(default_factory=samples.SurprisedConfig)
    wrong_but_sure: samples.OverconfidentConfig = field(default_factory=samples.OverconfidentConfig)
    inverted_loss: samples.InvertedConfig = field(default_factory=samples.InvertedConfig)
    calibration: samples.CalibrationConfig = field(default_factory=samples.CalibrationConfig)
    new_best: best.NewBestConfig = field(default_factory=best.NewBestConfig)
    limit: limits.LimitConfig = field(default_factory=limits.LimitConfig)
    grad_above: limits.GradExplodingConfig = field(default_factory=limits.GradExplodingConfig)
    grad_far_above: limits.GradFarAboveConfig = field(default_factory=limits.GradFarAboveConfig)
    grad_below: limits.GradBelowConfig = field(default_factory=limits.GradBelowConfig)
    lr_high: limits.RateHighConfig = field(default_factory=limits.RateHighConfig)
    lr_low: limits.RateLowConfig = field(default_factory=limits.RateLowConfig)
    vram_unused: limits.VramConfig = field(default_factory=limits.VramConfig)
    memory_high: limits.MemoryHighConfig = field(default_factory=limits.MemoryHighConfig)
    memory_full: limits.MemoryFullConfig = field(default_factory=limits.MemoryFullConfig)
    data_large: limits.DataConfig = field(default_factory=limits.DataConfig)
    data_flat: limits.DataFlatConfig = field(default_factory=limits.DataFlatConfig)
    masked_ratio: limits.MaskedConfig = field(default_factory=limits.MaskedConfig)
    spike_over_mean: windows.SpikeMeanConfig = field(default_factory=windows.SpikeMeanConfig)
    spike_tenfold: windows.SpikeTenfoldConfig = field(default_factory=windows.SpikeTenfoldConfig)
    z_score: windows.ZScoreConfig = field(default_factory=windows.ZScoreConfig)
    loss_z_score: windows.LossZConfig = field(default_factory=windows.LossZConfig)
    lr_z_score: windows.RateZConfig = field(default_factory=windows.RateZConfig)
    accuracy_points: windows.AccuracyPointsConfig = field(default_factory=windows.AccuracyPointsConfig)
    rising_loss: trends.RisingConfig = field(default_factory=trends.RisingConfig)
    flat_loss_50: trends.FlatConfig = field(default_factory=trends.FlatConfig)
    flat_loss_20: trends.Flat20Config = field(default_factory=trends.Flat20Config)
    flat_loss_strict: trends.FlatLossConfig = field(default_factory=trends.FlatLossConfig)
    loss_variance: trends.VarianceConfig = field(default_factory=trends.VarianceConfig)
    loss_oscillation: trends.OscillationConfig = field(default_factory=trends.OscillationConfig)
    loss_tenfold: trends.TenfoldConfig = field(default_factory=trends.TenfoldConfig)
    loss_upward: trends.UpwardConfig = field(default_factory=trends.UpwardConfig)
    validation_gap: trends.GapConfig = field(default_factory=trends.GapConfig)
    memory_leak: trends.LeakConfig = field(default_factory=trends.LeakConfig)
    hang: trends.HangConfig = field(default_factory=trends.HangConfig)

    def active(self, preset: str) -> list[AnyRule]:
        """The rules that are switched on, by themselves or by the preset."""
        made = [rule(getattr(self, rule.name)) for rule in ALL_RULES]
        return [rule for rule in made if _is_on(rule, preset)]


def _is_on(rule: AnyRule, preset: str) -> bool:
    if not rule.config.metrics:
        return False  # waits for metrics of one's own
    if rule.config.enabled is not None:
        return bool(rule.config.enabled)
    return preset == "both" or preset in rule.presets
