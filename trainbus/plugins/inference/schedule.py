"""Which sets a new checkpoint is due for: every one, every so many-th, or at a schedule of steps. Pure, over the durable state."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any, Protocol

import msgspec

from trainbus.bus import events

SEEN = "seen"
RUNS_KEPT = 200
"""Runs of which the count of checkpoints is remembered: the newest."""


class Seen(msgspec.Struct):
    """Checkpoints of a run so far, and the step of the last."""

    count: int = 0
    step: int = -1


class Due(Protocol):
    """What has a schedule: a set of questions, or a task."""

    @property
    def name(self) -> str:
        """Its name in events."""

    @property
    def take_every(self) -> int:
        """See `InferenceConfig`."""

    @property
    def at_steps(self) -> tuple[int, ...]:
        """See `InferenceConfig`."""


class Schedule:
    """Counts the checkpoints of each run.

    Args:
        state: ``context.state``: committed together with the cursor, so that each checkpoint counts once.
    """

    def __init__(self, state: MutableMapping[str, Any], sets: Sequence[Due]) -> None:
        self._state = state
        self._sets = sets

    def due(self, event: events.Checkpoint) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Count a checkpoint; the sets that it is due for, and those of them that are on a schedule of steps."""
        runs = dict(self._state.get(SEEN, {}))
        seen = msgspec.convert(runs.pop(event.run, {}), Seen)
        due, kept = [], []
        for one in self._sets:
            if one.at_steps and any(seen.step < step <= event.step for step in one.at_steps):
                kept.append(one.name)
            elif one.at_steps or seen.count % one.take_every:
                continue
            due.append(one.name)
        runs[event.run] = msgspec.to_builtins(Seen(seen.count + 1, event.step))
        self._state[SEEN] = dict(list(runs.items())[-RUNS_KEPT:])
        return tuple(due), tuple(kept)
