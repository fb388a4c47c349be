"""What the detector remembers of one run: small, bounded, and the same bytes for the same events."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from msgspec import Struct, field

from trainbus.bus.events import Alert, Checkpoint
from trainbus.plugins.anomaly.causes import StepSize
from trainbus.plugins.anomaly.figures import Figures
from trainbus.plugins.anomaly.incidents import Episode, Incident
from trainbus.plugins.anomaly.track import Track

HISTORY = 10
"""Last values of a metric that an alert and a snapshot tell."""
MAX_SERIES = 256
"""Series of one run; further names are not watched, so that metrics named after examples can't fill the memory."""
MAX_KEPT = 64
"""Alerts whose snapshot is remembered as made."""
MAX_CHECKPOINTS = 16
"""Complete checkpoints that are remembered for snapshots."""


class Kept(Struct, array_like=True):
    """A complete checkpoint."""

    id: str
    step: int
    path: str
    host: str


class Lowest(Struct, array_like=True):
    """The lowest value of a loss and its step."""

    step: int
    value: float


class Following(Struct, array_like=True):
    """A snapshot that still lacks the events after its alert.

    Args:
        path: Of the snapshot.
        first: Offset after which its events begin.
        alert: Offset of the alert.
        left: So many events of the run are still to come.
    """

    path: str
    first: int
    alert: int
    left: int


class RunMemory(Struct, array_like=True):
    """One run.

    Args:
        last_step: Of the last step event.
        last_time: The latest stamp seen, ns.
        epoch: Of the last step that named it.
        clock: The last sign of progress, ns; 0 before the first.
        busy: The trainer is in a phase (evaluating, saving) in which no steps are due.
        learning_rate: The last one.
        figures: What the running figures are made of.
        acted: Steps at which each action was taken.
        wanted: Snapshots of the next checkpoint that are still to be made: alert by id.
        kept: Alerts for which a snapshot was made.
        samples: The last ones, for snapshots.
        ended: The run has ended.
        size: How many examples a step sees.
        odd: The last step saw another number than usual.
        restarts: The configuration of the run names a schedule with warm restarts.
        following: Snapshots that wait for the events after their alert.
        tracks: The windows of the watched series.
        memories: What each rule remembers, by series, then by rule.
        episodes: Rules that are broken now, by rule and series.
        incidents: Open alerts by id.
        news: The alert of each rule that announces news, by rule and series.
        quiet_until: Steps before which a rule with a cooldown stays silent, by rule and series.
        history: Last (step, value) pairs of every series.
        lowest: Of every loss.
        checkpoints: Complete ones.
    """

    last_step: int = 0
    last_time: int = 0
    epoch: float | None = None
    clock: int = 0
    busy: bool = False
    ranked: bool = False
    learning_rate: float | None = None
    tracks: dict[str, Track] = field(default_factory=dict)
    memories: dict[str, dict[str, Any]] = field(default_factory=dict)
    episodes: dict[str, Episode] = field(default_factory=dict)
    incidents: dict[str, Incident] = field(default_factory=dict)
    news: dict[str, Incident] = field(default_factory=dict)
    quiet_until: dict[str, int] = field(default_factory=dict)
    history: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    lowest: dict[str, Lowest] = field(default_factory=dict)
    checkpoints: list[Kept] = field(default_factory=list)
    figures: Figures = field(default_factory=Figures)
    acted: dict[str, int] = field(default_factory=dict)
    wanted: dict[str, Alert] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    ended: bool = False
    size: StepSize = field(default_factory=StepSize)
    odd: bool = False
    restarts: bool = False
    following: list[Following] = field(default_factory=list)

    def history_of(self, metric: str) -> list[tuple[int, float]] | None:
        """The last values of a series; None when it is one series too many."""
        values = self.history.get(metric)
        if values is None and len(self.history) < MAX_SERIES:
            values = self.history[metric] = []
        return values

    def note_lowest(self, metric: str, step: int, value: float) -> None:
        """Remember the lowest value of a loss; neither an exact 0.0 nor a NaN is one."""
        if value == 0.0 or not math.isfinite(value):
            return
        known = self.lowest.get(metric)
        if known is None:
            self.lowest[metric] = Lowest(step, value)
        elif value < known.value:
            known.step, known.value = step, value

    def note_sample(self, sample: dict[str, Any]) -> None:
        """Remember one of the last samples."""
        self.samples.append(sample)
        if len(self.samples) > HISTORY:
            del self.samples[0]

    def note_kept(self, alert: str) -> None:
        """A snapshot was made (or refused) for this alert: its updates ask for no second one."""
        self.kept = [*self.kept, alert][-MAX_KEPT:]

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


def encode(memory: RunMemory) -> bytes:
    """For the plugin's durable state."""
    return msgspec.msgpack.encode(memory)


def decode(content: Any) -> RunMemory:
    """Take a memory back: what `encode` gave, or the same as msgpack holds it. What rules remember stays as msgpack holds it.

    Raises:
        msgspec.DecodeError: It was written by another version.
    """
    if isinstance(content, bytes):
        return msgspec.msgpack.decode(content, type=RunMemory)
    return content if isinstance(content, RunMemory) else msgspec.convert(content, RunMemory)
