"""Which checkpoint is examined next: pure decisions over the plugin's durable state.

The queue lies in ``context.state``, which is committed together with the cursor: a checkpoint is either still ahead of the cursor or in
the queue, so none is lost in a crash. What is finished is taken out of the queue; that the same event may come again is met by asking
the journal for the result before the work begins (`verdict`).
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any, Literal, TypeAlias

import msgspec

from trainbus.bus import events

PENDING = "pending"
EXAMINED = "examined"
EXAMINED_KEPT = 1_000
"""Ids of finished checkpoints that are remembered, so that a repeated event needs no question to the journal."""

Policy: TypeAlias = Literal["newest", "every"]


class Waiting(msgspec.Struct, frozen=True):
    """A checkpoint that waits, with the offset of the event that announced it."""

    id: str
    run: str
    step: int
    path: str
    offset: int

    def checkpoint(self) -> events.Checkpoint:
        """What the model name is made from."""
        return events.Checkpoint(id=self.id, run=self.run, step=self.step, path=self.path)


class Queue:
    """The waiting checkpoints in the order in which they were announced."""

    def __init__(self, state: MutableMapping[str, Any]) -> None:
        self._state = state

    def waiting(self) -> list[Waiting]:
        """All that wait."""
        return [msgspec.convert(entry, Waiting) for entry in self._state.get(PENDING, [])]

    def add(self, event: events.Checkpoint) -> bool:
        """Take in a complete checkpoint; False when it waits already or was finished before."""
        if event.id in self._state.get(EXAMINED, []) or any(entry.id == event.id for entry in self.waiting()):
            return False
        added = Waiting(id=event.id, run=event.run, step=event.step, path=event.path, offset=event.offset)
        self._save([*self.waiting(), added])
        return True

    def remove(self, identity: str) -> None:
        """Forget a checkpoint that was deleted; no error when it doesn't wait."""
        self._save([entry for entry in self.waiting() if entry.id != identity])

    def finish(self, identity: str) -> None:
        """A checkpoint was examined, passed over or given up: it does not come again."""
        self.remove(identity)
        examined = [other for other in self._state.get(EXAMINED, []) if other != identity]
        self._state[EXAMINED] = [*examined, identity][-EXAMINED_KEPT:]

    def next(self, policy: Policy) -> tuple[Waiting | None, list[Waiting]]:
        """What to examine now, and what the policy passes over for it."""
        waiting = self.waiting()
        if not waiting:
            return None, []
        chosen = waiting[0]
        if policy == "every":
            return chosen, []
        same_run = [entry for entry in waiting if entry.run == chosen.run]
        return same_run[-1], same_run[:-1]

    def superseded(self, entry: Waiting, policy: Policy) -> bool:
        """Whether a newer checkpoint of the run waits that the policy prefers."""
        return policy == "newest" and any(other.run == entry.run and other.offset > entry.offset for other in self.waiting())

    def _save(self, waiting: list[Waiting]) -> None:
        self._state[PENDING] = msgspec.to_builtins(waiting)


def verdict(entry: Waiting, dataset: str, since: Iterable[events.AnyEvent]) -> str:
    """Why a checkpoint needs no examination, from the events of its run after it was announced; empty when it does."""
    reason = ""
    for event in since:
        if isinstance(event, events.Eval) and event.checkpoint == entry.id and event.dataset == dataset:
            return "it was examined before"
        if isinstance(event, events.Checkpoint) and event.id == entry.id:
            reason = "it was deleted" if event.state == "deleted" else ""
    return reason
