"""At the end of each step all processes of a training agree: who is asked to stop, whose loss is ruined, what rank 0 was told to turn.

The first process takes the commands; what it does, the others do at the same step. A process that fails to agree must not go on alone:
what the exchange raises ends it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from trainbus.trainer_node.own_time import OwnTime, compared
from trainbus.trainer_node.ranks import Ranks
from trainbus.trainer_node.steering import TrainerSteering
from trainbus.trainer_node.turns import Recorder, Turns


class Agreed(NamedTuple):
    """What holds for all. ``turns`` are those of rank 0, and None on rank 0 itself, which has done them. ``examples`` of all together."""

    stop: bool
    ruined: bool
    turns: Turns | None
    examples: float


class Agreement:
    """One process's part in it, with its own pace.

    Args:
        ranks: All of them.
        trainer: The Trainer of this process.
    """

    def __init__(self, ranks: Ranks, trainer: Any) -> None:
        self._ranks = ranks
        self._recorder = Recorder(trainer) if ranks.rank == 0 else None
        self.steering: TrainerSteering = self._recorder or TrainerSteering(trainer)
        self.own = OwnTime()
        self._seconds = 0.0
        self._compared: dict[str, float] = {}

    def reach(self, *, stop: bool, ruined: bool, paused: bool, examples: int) -> Agreed:
        """Say how it is here, and learn what holds for all. ``paused`` counts on rank 0; ``examples`` are those since the last time."""
        turns = Turns(calls=self._recorder.take(), paused=paused) if self._recorder is not None else Turns()
        said = msgspec.json.encode(turns) if turns.calls or turns.paused else b""
        told = self._ranks.gather([stop, ruined, len(said), self._seconds, examples])
        if (length := int(told[0][2])) and self._ranks.rank:
            turns = msgspec.json.decode(self._ranks.share(b"", length), type=Turns)
        elif length:
            self._ranks.share(said, length)
        if self._ranks.rank == 0:
            self._compared = compared([row[3] for row in told])
        stops, ruins = any(row[0] for row in told), any(row[1] for row in told)
        return Agreed(stops, ruins, turns if self._ranks.rank else None, sum(row[4] for row in told))

    def pace(self, elapsed: float) -> dict[str, float]:
        """Metrics of a step: what this process took, and on rank 0 how all of them compared in the step before."""
        self._seconds = self.own.take() or self._seconds
        self.own.begin()
        return {"step_seconds": elapsed, "own_seconds": self._seconds, **self._compared}
