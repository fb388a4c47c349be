"""One file of a continuous training: in which order its examples come, and where a checkpoint says that it stands.

A checkpoint's marker carries, for each file that is not done, how many of its examples (rows, where they are packed) the weights have
seen. So weights and positions can't disagree, whichever checkpoint a training goes on from: every example is seen once, also across pause,
stop, skip and kill -9.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from trainbus.trainer_node.dataset.preparing import Dataset

WARMUP_STEPS = 20
"""Steps of warm-up where the configuration says a fraction: a training without an end has no fraction."""


class Part(Struct, frozen=True, kw_only=True):
    """What a job of the queue adds to a `TrainerConfig`, whose ``data`` is its file.

    Args:
        job: Its id.
        run: The continuous run, the same for all jobs.
        rejected: File for the lines that are no examples.
        unfinished: Ids of the other jobs whose positions still count.
        unlock: As in `Resume`.
    """

    job: str
    run: str
    rejected: str = ""
    unfinished: tuple[str, ...] = ()
    unlock: bool = False


def presentation_order(examples: int, epochs: float, seed: int, job: str) -> Sequence[int]:
    """Indices of a file's examples as they are shown: each epoch in an order of its own, the same for the same seed and job."""
    order = array("q")
    for epoch in range(math.ceil(epochs)):
        indices = array("q", range(examples))
        random.Random(f"{seed}:{job}:{epoch}").shuffle(indices)
        order += indices
    return order[: max(1, round(epochs * examples))]


class Remaining:
    """What is left of a dataset, in the order of presentation.

    Args:
        dataset: All examples of the file.
        order: As `presentation_order` gives it.
        seen: So many of it were shown already.
    """

    def __init__(self, dataset: Dataset, order: Sequence[int], seen: int) -> None:
        self._dataset = dataset
        self._order = order[seen:]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Any:
        return self._dataset[self._order[index]]


def positions(part: Part, before: Mapping[str, int], seen: int) -> dict[str, int]:
    """What a marker says: the positions before, those of jobs that don't count any more left out, and this job's."""
    return {job: before[job] for job in part.unfinished if job in before} | {part.job: seen}
