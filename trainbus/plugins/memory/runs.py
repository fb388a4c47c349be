"""What is known of each training on this machine: its steps, phases, saves, and its memory over them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import median

from msgspec import Struct, field

from trainbus.bus.events import Checkpoint, Phase, Process, Step, System
from trainbus.plugins.memory.levels import Limit
from trainbus.plugins.memory.series import Series

TRAINING_PHASES = ("", "train")
"""Phases in which steps happen; memory in any other is held apart."""
SETTLE_NS = 100_000_000
"""A look this soon after a phase ended may have measured in it."""
WARM_STEPS = 5
"""Steps whose memory is not looked at: caches, optimizer state and compiled code come with the first ones."""
SPEED_SHARE = 0.2
"""Weight of the newest step in the moving average of a step's duration."""
BASE_POINTS = 7
"""Looks that make the level of a training between two evaluations."""
MEMBERS_LOOKS = 64
"""Looks after which the sizes of the single processes are noted anew, to tell later which of them grew."""
KEPT_SAVES = 5
KEPT_EVALUATIONS = 8
KEPT_HELD = 3
"""Answers of the allocators that must agree: after an evaluation one alone may hold much."""


class Held(Struct, array_like=True, frozen=True):
    """What an allocator has told: bytes that are ``needed``, and bytes that it keeps beside."""

    needed: float
    idle: float


class RunView(Struct):
    """One training.

    ``series`` holds the bytes of its tree under "process", of limits under their keys, of GPUs as ``gpuN``. ``peaks`` is how far memory
    has been above its level while training, by phase. ``excess`` is how far it is above it
    now, ``levels`` the level after each evaluation. ``heap`` and ``gpu`` are what the training's allocators told last. ``crash`` is the
    id of the alert by which `trainbus exec` told of its end.
    """

    run: str
    name: str = ""
    pid: int = 0
    step: int | None = None
    total_steps: int | None = None
    step_time: int = 0
    step_seconds: float | None = None
    steps_seen: int = 0
    phases: list[str] = field(default_factory=list)
    phase_ended: int = 0
    series: dict[str, Series] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    base: list[float] = field(default_factory=list)
    levels: list[float] = field(default_factory=list)
    saves: list[float] = field(default_factory=list)
    saving_since: int = 0
    saved_step: int | None = None
    saved_time: int = 0
    checkpoint_bytes: int | None = None
    folder: str = ""
    gpu_low: int = 0
    excess: float = 0.0
    leaking: bool = False
    crash: str = ""
    gpu_percent: float | None = None
    members: dict[int, int] = field(default_factory=dict)
    members_age: int = 0
    heap: list[Held] = field(default_factory=list)
    gpu: list[Held] = field(default_factory=list)

    @property
    def phase(self) -> str:
        """The innermost open phase; empty outside of all."""
        return self.phases[-1] if self.phases else ""

    @property
    def training(self) -> bool:
        """Whether it is at its steps, and not at an evaluation, a save, or the loading of a model."""
        return self.phase in TRAINING_PHASES

    def on_step(self, event: Step) -> bool:
        """A step ended; True when it is a new one."""
        if event.rank != 0 or event.step == self.step:
            return False
        if self.step is not None and self.step_time and event.step > self.step and self.phase_ended < self.step_time:
            seconds = (event.time - self.step_time) / 1e9 / (event.step - self.step)
            known = self.step_seconds
            self.step_seconds = seconds if known is None else known + SPEED_SHARE * (seconds - known)
        self.step, self.step_time = event.step, event.time
        self.total_steps = event.total_steps or self.total_steps
        self.steps_seen += 1
        told = event.metrics
        if "heap_free" in told and "heap_used" in told:
            self.heap = [*self.heap, Held(told["heap_used"], told["heap_free"])][-KEPT_HELD:]
        if "gpu_reserved" in told and "gpu_peak" in told:
            self.gpu = [*self.gpu, Held(told["gpu_peak"], told["gpu_reserved"] - told["gpu_peak"])][-KEPT_HELD:]
        return True

    def on_phase(self, event: Phase) -> None:
        """A phase began or ended. One that ended without a beginning, or ended twice, changes nothing."""
        if event.state == "started":
            self.phases.append(event.name)
            if event.name == "evaluate" and self.base:
                self.levels = [*self.levels, median(self.base)][-KEPT_EVALUATIONS:]
        elif event.state == "ended" and event.name in self.phases:
            while self.phases and self.phases.pop() != event.name:
                pass
            self.phase_ended = event.time
            if event.name == "evaluate":
                self.base = []

    def on_checkpoint(self, event: Checkpoint) -> None:
        """A checkpoint is being written, or is whole: from one to the other is how long a save takes."""
        if event.path and event.state != "deleted":
            self.folder = str(Path(event.path).parent)
        if event.state == "writing":
            self.saving_since = event.time
        elif event.state == "complete":
            if self.saving_since and event.time >= self.saving_since:
                self.saves = [*self.saves, (event.time - self.saving_since) / 1e9][-KEPT_SAVES:]
            self.saving_since, self.saved_step, self.saved_time = 0, event.step, event.time
            self.checkpoint_bytes = event.bytes or self.checkpoint_bytes

    def on_look(self, event: System, process: Process, limits: Iterable[Limit]) -> bool:
        """The machine was looked at; True when there is a new point to judge."""
        value = float(process.anon if process.anon is not None else process.rss)
        self.excess = 0.0
        if not self.training:
            if self.base:
                self.excess = max(0.0, value - median(self.base))
                self.peaks[self.phase] = max(self.peaks.get(self.phase, 0.0), value - median(self.base))
            return False
        if self.step is None or self.steps_seen < WARM_STEPS or event.time < self.phase_ended + SETTLE_NS:
            return False
        self.base = [*self.base, value][-BASE_POINTS:]
        self.members_age += 1
        if not self.members or (self.members_age >= MEMBERS_LOOKS and not self.leaking):
            self.members, self.members_age = members(process), 0
        new = self._series("process").add(self.step, value)
        for limit in limits:
            self._series(limit.key).add(self.step, limit.used)
        self._gpus(event)
        return new

    def on_resumed(self, event_time: int) -> None:
        """Nothing of the process before holds for the new one, except how long a save takes."""
        self.step, self.step_time, self.steps_seen, self.step_seconds = None, event_time, 0, None
        self.phases, self.phase_ended, self.saving_since = [], 0, 0
        self.series, self.peaks, self.base, self.levels, self.gpu_low, self.excess = {}, {}, [], [], 0, 0.0
        self.members, self.members_age, self.leaking = {}, 0, False
        self.heap, self.gpu = [], []

    def save_seconds(self, default: float) -> float:
        """How long a save takes at most, as far as it has been seen."""
        return max(self.saves) if self.saves else default

    def worst_peak(self) -> float:
        """Bytes that an evaluation or a save has needed beyond the level of training."""
        return max(self.peaks.values(), default=0.0)

    def _gpus(self, event: System) -> None:
        shares = []
        for gpu in event.gpus:
            mine = [one for one in gpu.processes or () if one.run == self.run]
            if not mine:
                continue
            held = sum(one.memory or 0 for one in mine)
            if held and self.step is not None:
                self._series(f"gpu{gpu.index}").add(self.step, held)
            if gpu.memory_total and gpu.memory_used is not None:
                shares.append(100.0 * gpu.memory_used / gpu.memory_total)
        self.gpu_percent = max(shares, default=None)

    def _series(self, key: str) -> Series:
        found = self.series.get(key)
        if found is None:
            found = self.series[key] = Series()
        return found


def members(process: Process) -> dict[int, int]:
    """Bytes by process of a tree; what the named workers don't hold is the training's own."""
    sizes = {worker.pid: worker.anon if worker.anon is not None else worker.rss for worker in process.workers}
    total = process.anon if process.anon is not None else process.rss
    return {process.pid: total - sum(sizes.values()), **sizes}
