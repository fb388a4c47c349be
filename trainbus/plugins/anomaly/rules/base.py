"""What a rule is: a pure function of its memory of one series and the next value."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, TypeAlias

from msgspec import Struct, field

from trainbus.plugins.anomaly.config import RuleConfig
from trainbus.plugins.anomaly.observations import Observation


class Finding(Struct, frozen=True):
    """A value that breaks a rule.

    Args:
        score: How far, in the rule's own measure; an incident is updated when this grows.
        message: One sentence for a person.
        evidence: The value, what it was compared with, and the measure.
    """

    score: float
    message: str
    evidence: dict[str, Any]


class Baseline(Struct, tag="b", array_like=True):
    """The last values of a series that count as normal.

    Values that break the rule stay out, so that a long incident does not become its own yardstick; after ``adapt_after`` of them
    in a row they are let in: the series has a new level, and an incident must not stay open for ever because of five lucky values.
    """

    values: list[float] = field(default_factory=list)
    held_out: int = 0
    signed: bool = False

    def take(self, value: float, *, breaks: bool, window: int, adapt_after: int) -> None:
        """Remember a value that has been judged."""
        if breaks and self.held_out < adapt_after:
            self.held_out += 1
            return
        if not breaks:
            self.held_out = 0
        self.values.append(value)
        if len(self.values) > window:
            del self.values[:-window]


class Best(Struct, tag="n", array_like=True):
    """The best value so far and the alert that announced it."""

    value: float | None = None
    step: int = 0


Memory: TypeAlias = Baseline | Best


class Rule(Protocol):
    """One rule with its parameters. Holds no state: that is in the memory, which the caller keeps for each run and series."""

    name: ClassVar[str]
    category: ClassVar[str]
    advice: ClassVar[str]
    lasting: ClassVar[bool]
    """True when a finding is a condition that begins and ends; False when it is news that replaces the last news."""

    @property
    def config(self) -> RuleConfig:
        """Its parameters."""

    def remember(self) -> Memory | None:
        """An empty memory for a new series; None when the rule needs none."""

    def judge(self, memory: Memory | None, observation: Observation) -> Finding | None:
        """Judge one value and then remember it. The judgement never includes the value in what it is compared with."""
