"""Which checkpoint is examined next: pure decisions over the plugin's durable state.

The queue lies in ``context.state``, which is committed together with the cursor: a checkpoint is either still ahead of the cursor or in
the queue, so none is lost in a crash. What is finished is taken out of the queue; that the same event may come again is met by asking
the journal for the result before the work begins.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import msgspec

from trainbus.bus import events
from trainbus.plugins.inference.config import Policy

PENDING = "pending"
EXAMINED = "examined"
EXAMINED_KEPT = 1_000
"""Ids of finished checkpoints that are remembered, so that a repeated event needs no question to the journal."""


class Waiting(msgspec.Struct, frozen=True, omit_defaults=True):
    """A checkpoint that waits, with the offset of the event that announced it.

    Args:
        datasets: The sets that are to be asked; None for all.
        kept: Those of them that are on a schedule of steps: no newer checkpoint takes their place.
        attempts: Tries that have failed.
    """

    id: str
    run: str
    step: int
    path: str
    offset: int
    digest: str = ""
    datasets: tuple[str, ...] | None = None
    kept: tuple[str, ...] = ()
    attempts: int = 0


class Queue:
    """The waiting checkpoints in the order in which they were announced."""

    def __init__(self, state: MutableMapping[str, Any]) -> None:
        self._state = state

    def waiting(self, run: str = "") -> list[Waiting]:
        """All that wait, or those of one run."""
        entries = [msgspec.convert(entry, Waiting) for entry in self._state.get(PENDING, [])]
        return [entry for entry in entries if not run or entry.run == run]

    def knows(self, identity: str) -> bool:
        """Whether a checkpoint waits, or is finished."""
        return identity in self._state.get(EXAMINED, []) or self.waits(identity)

    def waits(self, identity: str) -> bool:
        """Whether a checkpoint waits: it no longer does when it was deleted."""
        return any(entry.id == identity for entry in self.waiting())

    def add(self, event: events.Checkpoint, datasets: tuple[str, ...], kept: tuple[str, ...] = ()) -> None:
        """Take in a complete checkpoint that is not known yet."""
        added = Waiting(event.id, event.run, event.step, event.path, event.offset, event.digest, datasets, kept)
        self._save([*self.waiting(), added])

    def failed(self, identity: str) -> int:
        """Count a failed try; how many there were."""
        counted = [
            msgspec.structs.replace(entry, attempts=entry.attempts + 1) if entry.id == identity else entry for entry in self.waiting()
        ]
        self._save(counted)
        return next((entry.attempts for entry in counted if entry.id == identity), 0)

    def remove(self, identity: str) -> None:
        """Forget a checkpoint that was deleted; no error when it doesn't wait."""
        self._save([entry for entry in self.waiting() if entry.id != identity])

    def finish(self, identity: str) -> None:
        """A checkpoint was examined, passed over or given up: it does not come again."""
        self.remove(identity)
        examined = [other for other in self._state.get(EXAMINED, []) if other != identity]
        self._state[EXAMINED] = [*examined, identity][-EXAMINED_KEPT:]

    def next(self, policy: Policy) -> tuple[Waiting | None, list[Waiting]]:
        """What to examine now, and what the policy passes over for it.

        Under ``newest``, what is passed over and has sets on a schedule waits on with these alone.
        """
        waiting = self.waiting()
        if not waiting:
            return None, []
        if policy == "every":
            return waiting[0], []
        chosen = [entry for entry in waiting if entry.run == waiting[0].run][-1]
        passed = [entry for entry in waiting if entry.run == chosen.run and entry.id != chosen.id]
        if any(entry.kept for entry in passed):
            kept = {entry.id: msgspec.structs.replace(entry, datasets=entry.kept) for entry in passed if entry.kept}
            self._save([kept.get(entry.id, entry) for entry in waiting])
        return chosen, [entry for entry in passed if not entry.kept]

    def superseded(self, entry: Waiting, policy: Policy) -> bool:
        """Whether a newer checkpoint of the run waits that the policy prefers."""
        return policy == "newest" and not entry.kept and any(other.offset > entry.offset for other in self.waiting(entry.run))

    def _save(self, waiting: list[Waiting]) -> None:
        self._state[PENDING] = msgspec.to_builtins(waiting)
