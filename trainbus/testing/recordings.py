"""Recorded histories: the same events for everybody, for ever, to test a plugin with.

    for event in recorded("nan"):
        ...

Each is a synthetic run of 200 steps (`FakeTrainer`), recorded by ``python -m trainbus.testing.record`` and kept as a file, so that a
plugin's tests don't change when the fake trainer does. A released recording is never made anew; new ones get new names.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from importlib import resources

import msgspec

from trainbus.bus import events

RECORDED = {
    "healthy": "A run that completes: steps, evaluations, checkpoints.",
    "nan": "The loss is NaN from step 120 on.",
    "spike": "The loss jumps at step 120 and comes back within eight steps.",
    "diverge": "The loss grows from step 120 on, by an eighth each step.",
    "overfit": "The training loss goes on falling; that of the evaluation rises from step 120 on.",
    "killed": "Nothing comes after step 120; the run is reported as lost.",
    "steered": "Paused at step 50 and resumed, slower from step 100 on, stopped at step 150, by commands.",
}
"""Names, and what happens."""

FOLDER = "histories"

Record = tuple[int, bytes]


def recorded(name: str) -> list[events.AnyEvent]:
    """The events of a recorded history, with their offsets, anew at each call.

    Raises:
        ValueError: There is none of this name.
    """
    if name not in RECORDED:
        raise ValueError(f"There is no recorded history {name!r}. There are: {', '.join(RECORDED)}.")
    content = resources.files(__package__).joinpath(FOLDER, f"{name}.msgpack.gz").read_bytes()
    records = msgspec.msgpack.decode(gzip.decompress(content), type=list[Record])
    return [events.decode(body, offset) for offset, body in records]


def pack(history: Iterable[events.AnyEvent]) -> bytes:
    """A history as it is kept: gzip of a msgpack array of offset and body."""
    return gzip.compress(msgspec.msgpack.encode([(event.offset, events.encode(event)) for event in history]), mtime=0)
