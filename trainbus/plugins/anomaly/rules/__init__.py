"""The rules, one module a family."""

from trainbus.plugins.anomaly.config import RulesConfig
from trainbus.plugins.anomaly.rules.base import Baseline, Best, Finding, Memory, Rule
from trainbus.plugins.anomaly.rules.loss_spike import LossSpike
from trainbus.plugins.anomaly.rules.new_best import NewBest
from trainbus.plugins.anomaly.rules.non_finite import NonFinite
from trainbus.plugins.anomaly.rules.z_score import ZScore

__all__ = ["Baseline", "Best", "Finding", "LossSpike", "Memory", "NewBest", "NonFinite", "Rule", "ZScore", "enabled_rules"]


def enabled_rules(config: RulesConfig) -> list[Rule]:
    """The rules that are switched on, in the order in which they speak."""
    rules: list[Rule] = [NonFinite(config.non_finite), LossSpike(config.loss_spike), ZScore(config.z_score), NewBest(config.new_best)]
    return [rule for rule in rules if rule.config.enabled]
