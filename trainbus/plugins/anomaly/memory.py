"""What the detector remembers of one run: small, bounded, and the same bytes for the same events."""

from __future__ import annotations

import math

import msgspec
from msgspec import Struct, field

from trainbus.bus.events import Checkpoint
from trainbus.plugins.anomaly.incidents import Incident
from trainbus.plugins.anomaly.observations import Observation
from trainbus.plugins.anomaly.rules import Memory

HISTORY = 10
"""Last values of a metric that a snapshot tells."""
MAX_SERIES = 256
"""Series of one run; further names are not watched, so that metrics named after examples can't fill the memory."""
MAX_CHECKPOINTS = 16
"""Complete checkpoints that are remembered for snapshots."""


class Kept(Struct, array_like=True):
    """A complete checkpoint."""

    id: str
    step: int
    path: str
    host: str


class RunMemory(Struct, array_like=True):
    """One run. ``series`` is by rule, then by metric; ``open`` and ``news`` by rule and metric; ``lowest`` is of every loss."""

    last_step: int = 0
    last_time: int = 0
    series: dict[str, dict[str, Memory]] = field(default_factory=dict)
    open: dict[str, Incident] = field(default_factory=dict)
    news: dict[str, Incident] = field(default_factory=dict)
    history: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    lowest: dict[str, tuple[int, float]] = field(default_factory=dict)
    checkpoints: list[Kept] = field(default_factory=list)

    def note(self, observation: Observation) -> bool:
        """Add a value to the history; False when it belongs to one series too many."""
        values = self.history.get(observation.metric)
        if values is None:
            if len(self.history) >= MAX_SERIES:
                return False
            values = self.history[observation.metric] = []
        values.append((observation.step, observation.value))
        if len(values) > HISTORY:
            del values[0]
        if observation.metric.endswith("loss") and math.isfinite(observation.value) and observation.value != 0.0:
            lowest = self.lowest.get(observation.metric)
            if lowest is None or observation.value < lowest[1]:
                self.lowest[observation.metric] = (observation.step, observation.value)
        return True

    def note_checkpoint(self, event: Checkpoint) -> None:
        """Follow a checkpoint through its states; a path that is written again holds no older checkpoint any more."""
        if event.state == "deleted":
            self.checkpoints = [kept for kept in self.checkpoints if kept.id != event.id]
            return
        self.checkpoints = [kept for kept in self.checkpoints if (kept.host, kept.path) != (event.host, event.path)]
        if event.state == "complete":
            self.checkpoints = [*self.checkpoints, Kept(event.id, event.step, event.path, event.host)][-MAX_CHECKPOINTS:]

    def checkpoint_before(self, step: int, host: str) -> Kept | None:
        """The last complete checkpoint of this host from before a step: the step's own one already holds its update."""
        return max((kept for kept in self.checkpoints if kept.host == host and kept.step < step), key=lambda kept: kept.step, default=None)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(RunMemory)

encode = _encoder.encode
"""``encode(memory) -> bytes`` for the plugin's durable state."""

decode = _decoder.decode
"""``decode(bytes) -> RunMemory``; raises ``msgspec.DecodeError`` for bytes of another version."""
