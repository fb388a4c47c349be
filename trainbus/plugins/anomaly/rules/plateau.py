"""A run that does not learn."""

from __future__ import annotations

from itertools import pairwise
from math import isfinite, sqrt
from typing import TYPE_CHECKING, ClassVar

from msgspec import field

from trainbus.plugins.anomaly.observations import Observation
from trainbus.plugins.anomaly.rules.base import STILL, Count, Finding, Fraction, Memory, Ratio, Rule, RuleConfig
from trainbus.plugins.anomaly.track import Track

BLOCKS = 32
"""Means of equally many values that cover the whole run; when they are full, neighbours are merged."""

if TYPE_CHECKING:
    from trainbus.plugins.anomaly.memory import RunMemory


NOTICEABLE = 0.1
"""A loss that has fallen by this part of its first value has been learning."""
NO_RATE = 12
"""Values of a learning rate that was never above 0: by then the loss would have begun to fall if that were only a rounded number."""


HIGH = 1.25
"""Times the median of the window: what is higher counts as this much, so that a spike does not hide how far the loss has fallen."""
EPOCHS = 2
"""In a run that tells its epochs: the loss of a fine-tuning often stays where it is until the data comes again."""
FEW = 8
"""Values in the window from which on that is known."""


class PlateauConfig(RuleConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.anomaly.rules.plateau]``.

    Args:
        share: So much of the run so far is flat.
        improvement: An improvement by less than this part of the loss over that stretch is none.
        min_samples: So many values are needed before the rule says anything.
        min_steps: And so many steps since the first one; twice as many while the loss is where it began: small models often learn late.
        floor: A smaller loss is left alone: a language model at 1.5 nats a token has learned, and fine-tuning often stays near its start.
        high: The loss must still be above this part of its first value: below it, much was learned and flat means done.
        learning_rate: The series that tells why, when it has been 0 all the time.
        precision: The stretch must be known so well: twice the standard error of the improvement, as a part of the loss.
    """

    clear_after: Count = 50
    share: Fraction = 0.8
    improvement: Fraction = 0.005
    min_samples: Count = 100
    min_steps: Count = 500
    floor: Ratio = 1.5
    high: Fraction = 0.5
    precision: Fraction = 0.01
    learning_rate: str = "learning_rate"


class Blocks(Memory, array_like=True):
    """Means over the whole run at falling resolution: at most `BLOCKS` of them."""

    means: list[float] = field(default_factory=list)
    size: int = 1
    total: float = 0.0
    filled: int = 0
    count: int = 0
    lr_zero: int = 0
    since: int = -1
    first: int = -1

    def take(self, value: float) -> bool:
        """Add a value; True when a block has become full."""
        self.count += 1
        self.total += value
        self.filled += 1
        if self.filled < self.size:
            return False
        self.means.append(self.total / self.size)
        self.total, self.filled = 0.0, 0
        if len(self.means) >= BLOCKS:
            self.means = [(one + other) / 2 for one, other in zip(self.means[::2], self.means[1::2], strict=True)]
            self.size *= 2
        return True


class Plateau(Rule[PlateauConfig, Blocks]):
    """Over the last ``share`` of the run so far, the loss has not improved by ``improvement``, and is known well enough to say so.

    The run is kept as 16 to 32 block means. The improvement is that from the first to the last third of the stretch; its standard error
    follows from the scatter of neighbouring blocks. A loss that has fallen far below its first value is not called a plateau: from
    the outside a finished run and a stuck one look alike, so only a run that is flat for most of its life far above zero is.
    """

    name: ClassVar[str] = "plateau"
    kind: ClassVar[str] = "plateau"
    group: ClassVar[str] = "learning"
    advice: ClassVar[str] = "Check labels and loss mask, that parameters are trainable, and the learning rate; then the model's wiring."
    memory = Blocks

    def reads(self) -> tuple[str, ...]:
        """What tells whether the other is real."""
        return (self.config.learning_rate,)

    def judge(self, memory: Blocks, observation: Observation, track: Track, run: RunMemory) -> Finding | None:
        """Flat for most of the run? Looks when a block is full; between, nothing has changed."""
        config, value = self.config, observation.value
        if not isfinite(value) or track.signed:
            return None
        cap = HIGH * track.median if track.count >= FEW else value
        full = memory.take(value if value <= cap else cap)
        if memory.first < 0:
            memory.first = observation.step
        rate = run.tracks.get(config.learning_rate)
        if rate is not None and rate.count >= NO_RATE and rate.ordered[-1] == 0.0 and track.count >= NO_RATE:
            return self._without_rate(observation, track)
        if run.epoch is not None and run.epoch < EPOCHS:
            return None
        if not full or memory.count < config.min_samples:
            return STILL if memory.since >= 0 else None
        means = memory.means
        stretch = means[int(len(means) * (1 - config.share)) :]
        third = len(stretch) // 3
        early, late = sum(stretch[:third]) / third, sum(stretch[-third:]) / third
        changes = sorted(abs(one - other) for one, other in pairwise(stretch))
        error = 1.05 * changes[len(changes) // 2] * sqrt(2 / third)
        flat = (
            early - late + 2 * error < max(config.improvement, config.precision) * late
            and early - late < config.improvement * late
            and late > config.floor
            and late > config.high * track.first
            and observation.step - memory.first >= config.min_steps * (2 if late > (1 - NOTICEABLE) * track.first else 1)
        )
        if not flat:
            memory.since = -1
            return None
        if memory.since < 0:
            memory.since = observation.step
        message = (
            f"{observation.metric} has been flat at {late:.4g} for {config.share:.0%} of the run up to step {observation.step}:"
            f" it was {early:.4g} at the beginning of that stretch."
        )
        return Finding(1.0, message, {"value": late, "baseline": early, "error": error, "values": memory.count, "share": config.share})

    @staticmethod
    def _without_rate(observation: Observation, track: Track) -> Finding | None:
        """The learning rate has been 0 for the whole window: the loss can't improve, however noisy it is."""
        if track.median < (1 - NOTICEABLE) * track.first:
            return None
        message = f"{observation.metric} does not improve ({track.first:.4g}, now {track.median:.4g}): the learning rate has been 0."
        return Finding(1.0, message, {"value": track.median, "baseline": track.first, "learning_rate": 0.0}, None, track.since)
