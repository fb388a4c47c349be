"""What the tests of the examiner share: checkpoints as events, a context that keeps its leases, and a look at what was published."""

from __future__ import annotations

import json
from pathlib import Path

from trainbus.bus.events import Alert, Checkpoint, Metric
from trainbus.testing.context import MemoryContext

QUESTIONS = [{"id": f"q{n}", "question": f"{n} + {n}?", "answer": str(2 * n)} for n in range(1, 6)]
WORDS = 8
"""Tokens of each answer of the small models."""


class Journaled(MemoryContext):
    """Finds again what it published, as a journal does, and keeps the leases that it gave.

    A lease that is forgotten instead of given back is not mended by the garbage collector.
    """

    def lease(self, *resource, **arguments):
        self.given = [*getattr(self, "given", []), super().lease(*resource, **arguments)]
        return self.given[-1]

    def query(self, *, kinds=(), runs=(), after=-1, upto=None):
        yield from super().query(kinds=kinds, runs=runs, after=after, upto=upto)
        for event in list(self.published):
            if (not kinds or event.kind in kinds) and (not runs or event.run in runs):
                yield event


def checkpoint(step, *, run="r", state="complete", path="") -> Checkpoint:
    return Checkpoint(run=run, id=f"{run}@{step}:abc", step=step, path=path or f"/models/checkpoint-{step}", state=state, digest="abc")


def of(harness, kind):
    return [event for event in harness.published if isinstance(event, kind)]


def behind(harness, run="r"):
    return [event.value for event in of(harness, Metric) if event.name == "inference_behind" and event.run == run]


def given_up(harness):
    return [alert for alert in of(harness, Alert) if alert.rule == "checkpoint_not_examined"]


def write_set(path: Path, records) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)
