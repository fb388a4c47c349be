"""What a rule is: a pure function of its memory of one series, the next value, and what is known of the run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, TypeAlias, TypeVar

from msgspec import Meta, Struct, to_builtins

from trainbus.bus.events import Severity
from trainbus.plugins.anomaly.observations import Observation
from trainbus.plugins.anomaly.track import Track

if TYPE_CHECKING:
    from trainbus.plugins.anomaly.memory import RunMemory

Pattern: TypeAlias = Annotated[str, Meta(min_length=1)]
Samples: TypeAlias = Annotated[int, Meta(ge=1, le=1_000)]
Count: TypeAlias = Annotated[int, Meta(ge=1, le=100_000)]
Cooldown: TypeAlias = Annotated[int, Meta(ge=0, le=1_000_000)]
Ratio: TypeAlias = Annotated[float, Meta(ge=0, le=100_000)]
Fraction: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Deviations: TypeAlias = Annotated[float, Meta(ge=0, le=1_000)]


class RuleConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What every rule can be told.

    Args:
        enabled: Switches the rule on or off; left out, the preset decides.
        metrics: Names or patterns of the series that it watches.
        severity: Of its alerts; a rule with degrees may say less or more.
        clear_after: So many quiet values in a row end an incident.
        cooldown: For so many steps after it has spoken of a series, the rule raises nothing new of it.
    """

    enabled: bool | None = None
    metrics: tuple[Pattern, ...] = ("loss",)
    severity: Severity = "warning"
    clear_after: Count = 10
    cooldown: Cooldown = 0


class Finding(Struct, frozen=True):
    """A value that breaks a rule.

    Args:
        score: How far, in the rule's own measure; an incident is updated when this grows.
        message: One sentence for a person.
        evidence: The value, what it was compared with, and the measure.
        severity: Where it differs from the rule's.
        start: Step at which it began, where that is before the value.
    """

    score: float
    message: str
    evidence: dict[str, Any]
    severity: Severity | None = None
    start: int | None = None


STILL = Finding(0.0, "It is still so.", {})
"""For rules without degrees: an incident goes on and has got no worse, so nothing of this is told."""


class Memory(Struct, array_like=True):
    """Base of what rules remember of a series: small, of a fixed size, and msgpack can hold it."""


class Nothing(Memory, array_like=True):
    """For rules that need no memory."""


class Streak(Memory, array_like=True):
    """How many values in a row, and since when."""

    length: int = 0
    since: int = -1

    def extend(self, holds: bool, step: int) -> int:
        """Count one more value; returns the length of the unbroken streak."""
        if not holds:
            self.length = 0
            return 0
        if not self.length:
            self.since = step
        self.length += 1
        return self.length


DEFAULT = frozenset({"default"})
CLASSIC = frozenset({"classic"})
BOTH = DEFAULT | CLASSIC

C = TypeVar("C", bound=RuleConfig)
M = TypeVar("M", bound=Memory)


class Rule(ABC, Generic[C, M]):
    """One rule with its parameters. Holds no state: that is in the memory, which the detector keeps for each run and series.

    Class attributes:
        name: In configuration, ids and messages.
        kind: What it finds, in the words of labels: loss_spike, divergence, nan, lr_glitch, ...
        group: Findings of one group that overlap in time are one incident: stability, learning, speed, data, best.
        advice: One sentence: what to do.
        lasting: True when a finding is a condition that begins and ends; False when it is news that replaces the last news.
        survives: The memory is kept over a resume.
        of_data: What is normal depends on the data and on the size of a step; when one of them changes, its baseline starts anew.
        uses_track: It looks at the values before.
        uses_noise: It looks at their noise.
        presets: In which of these it is switched on.
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    group: ClassVar[str] = "stability"
    advice: ClassVar[str]
    presets: ClassVar[frozenset[str]] = DEFAULT
    lasting: ClassVar[bool] = True
    survives: ClassVar[bool] = False
    of_data: ClassVar[bool] = False
    uses_track: ClassVar[bool] = True
    uses_noise: ClassVar[bool] = False
    memory: type[M]

    def __init__(self, config: C) -> None:
        self.config = config
        self.parameters: dict[str, Any] = to_builtins(config)

    def goes_on(self, observation: Observation, run: RunMemory) -> bool:
        """Whether this rule is broken on this series already: then `STILL` says enough, and costs no message."""
        return bool(run.episodes) and f"{self.name}:{observation.metric}" in run.episodes

    def reads(self) -> tuple[str, ...]:
        """Series whose tracks it looks at beside the one that it judges."""
        return ()

    @abstractmethod
    def judge(self, memory: M, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Judge one value and then remember it. The judgement never includes the value in what it is compared with.

        Args:
            memory: Of this rule and series; changed in place.
            observation: The value.
            track: The values before it.
            run: What is known of the run.
        """


AnyRule: TypeAlias = Rule[Any, Any]
