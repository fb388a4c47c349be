"""Known causes of a change: a new data file, steps of another size, a schedule with restarts.

What is normal for losses and gradient norms depends on the data and on how many examples make a step. When either changes, the baselines
of these start anew; a single step that saw fewer or more examples than usual (the rest of an epoch, with gradient accumulation) can
only be odd, and what it breaks is a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from msgspec import Struct

from trainbus.bus import events

Size: TypeAlias = Literal["usual", "odd", "changed"]

DATA_PHASES: Final = frozenset({"load_data", "data"})
"""Phases whose beginning is the end of the data before."""
ACCUMULATION: Final = ("gradient_accumulation_steps", "gradient_accumulation")
"""Metrics of a step that tell over how many batches gradients are summed."""
RESTARTS: Final = ("restart", "cyclic")
"""Words in the name of a schedule."""
STEADY = 8
"""So many steps of one size in a row: before, the size is no habit that a step could break (batches of so many tokens)."""
OTHER = 0.25
"""A size that differs by more than this part of the usual one is another."""
CHANGED = 3
"""So many steps of another size in a row: that is the size now."""


def is_new_data(event: events.AnyEvent) -> bool:
    """Whether the steps that follow are of another data file."""
    if isinstance(event, events.Job):
        return event.state == "processing"
    return isinstance(event, events.Phase) and event.state == "started" and event.name in DATA_PHASES


def has_restarts(config: Mapping[str, Any]) -> bool:
    """Whether a run's configuration names a schedule with warm restarts (transformers' ``cosine_with_restarts``), at any depth."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            if has_restarts(value):
                return True
        elif "schedul" in str(name).lower() and any(word in str(value).lower() for word in RESTARTS):
            return True
    return False


class StepSize(Struct, array_like=True):
    """How many examples a step sees, all batches of its gradient accumulation together.

    Args:
        step: The last step.
        examples: Seen by then.
        size: Of a usual step.
        steady: Steps of that size in a row.
        other: Steps of another size in a row.
        accumulation: Batches whose gradients are summed, where the trainer tells it.
    """

    step: int = -1
    examples: int = -1
    size: float = 0.0
    steady: int = 0
    other: int = 0
    accumulation: float | None = None

    def take(self, step: int, examples: int) -> Size:
        """Take in how many examples had been seen when a step was done."""
        steps, seen, known = step - self.step, examples - self.examples, self.examples >= 0
        self.step, self.examples = step, examples
        if not known or steps <= 0 or seen <= 0:
            return "usual"
        size = seen / steps
        if abs(size - self.size) <= OTHER * self.size:
            self.steady, self.other = self.steady + 1, 0
            return "usual"
        if self.steady < STEADY:
            self.size, self.steady = size, 1
            return "usual"
        self.other += 1
        if self.other < CHANGED:
            return "odd"
        self.size, self.steady, self.other = size, 1, 0
        return "changed"

    def accumulates(self, batches: float) -> bool:
        """Take in over how many batches gradients are summed; True when that has changed."""
        before, self.accumulation = self.accumulation, batches
        return before is not None and before != batches
