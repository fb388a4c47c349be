"""The share of tokens without loss in each batch, as the model is given it: a batch that is out of the usual range is told on the bus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct, structs

from trainbus.bus.events import Alert
from trainbus.trainer_node.dataset.statistics import unusual

if TYPE_CHECKING:
    from trainbus.bus.run import Run

CALM_BATCHES = 50
"""After so many usual batches on end the incident is over."""
RULE = "masked_ratio"


class MaskStats(Struct, frozen=True, kw_only=True):
    """Batches so far, and those that were out of range."""

    batches: int
    unusual: int


class MaskWatch:
    """Tells an unusual batch once for each incident, as advice: it says something of the data, and does not hurt the training.

    Args:
        run: Where it is told.
        source: The name of the data.
    """

    def __init__(self, run: Run, source: str) -> None:
        self._run, self._source = run, source
        self._batches = self._unusual = self._calm = 0
        self._alert: Alert | None = None

    def saw(self, learned: int, tokens: int) -> None:
        """A batch is about to be given to the model: tokens that carry loss, and all but padding."""
        self._batches += 1
        if not (what := unusual(1 - learned / max(1, tokens))):
            self._calm += 1
            if self._alert is not None and self._calm >= CALM_BATCHES:
                self._run.publish(structs.replace(self._alert, state="cleared", message="Batches are as usual again."))
                self._alert = None
            return
        self._unusual += 1
        self._calm = 0
        if self._alert is None:
            self._alert = Alert(
                id=f"{RULE}:{self._run.id}:{self._source}:{self._unusual}", rule=RULE, category="data", severity="info", plugin="trainer",
                message=f"A batch of {self._source} is unusual: {what}.",
                evidence={"batch": self._batches, "learned": learned, "tokens": tokens},
                advice="Look at the data: `trainbus data preview`.",
            )  # fmt: skip
            self._run.publish(self._alert)

    def stats(self) -> MaskStats:
        """Counts so far."""
        return MaskStats(batches=self._batches, unusual=self._unusual)
