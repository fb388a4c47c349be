"""The rules, one module a family."""

from trainbus.plugins.anomaly.rules.base import AnyRule, Finding, Rule, RuleConfig

__all__ = ["AnyRule", "Finding", "Rule", "RuleConfig"]
