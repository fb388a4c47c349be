"""A training run that nobody computes: events as a real one publishes them, and it obeys commands.

    trainer = FakeTrainer(bus.run("r"), steps=50, fault="nan", at=20)      # in memory
    trainer = FakeTrainer(trainbus.init("r"), steps=50)                    # on a real bus
    trainer.train()

The same seed gives the same events. Curves are made up; what matters is their shape: a loss that falls, noise, a learning rate with
warm-up, and the fault that was ordered.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias, get_args

import msgspec

from trainbus.bus import events
from trainbus.testing.clock import VirtualClock

Fault: TypeAlias = Literal["", "nan", "spike", "diverge", "overfit", "killed"]
FAULTS: tuple[Fault, ...] = tuple(get_args(Fault))

SPIKE_STEPS = 8
"""Steps in which a spike decays."""

GIGABYTE = 1_000_000_000


class RunLike(Protocol):
    """What `FakeTrainer` publishes by: a `trainbus.Run`, or a `trainbus.testing.MemoryRun`."""

    @property
    def id(self) -> str:
        """The run's id."""

    def publish(self, event: events.Event) -> None:
        """Publish an event of the run."""

    def commands(self) -> Sequence[events.Command]:
        """What the run was asked to do since the last call."""

    def close(self, outcome: events.RunOutcome = "completed", *, reason: str = "") -> bool:
        """End the run."""


class TrainerStats(msgspec.Struct, frozen=True, kw_only=True):
    """How far a trainer is. ``state``: running, paused, or how the run ended."""

    step: int
    state: str
    commands: int
    checkpoints: int


class FakeTrainer:
    """A run of ``steps`` optimizer steps.

    Args:
        run: Where the events go and commands come from.
        steps: Optimizer steps in all.
        seed: Of the noise.
        fault: What goes wrong: ``nan`` and ``diverge`` stay, a ``spike`` decays, with ``overfit`` the evaluation turns up,
            ``killed`` ends the run without a word.
        at: The first step of the fault; default: two thirds of the way.
        eval_every: Steps between evaluations; 0 for none.
        checkpoint_every: Steps between checkpoints; 0 for none. Their directories are named, not made.
        clock: Stamps the events and goes on by ``step_seconds`` a step; None: whoever publishes stamps them.
    """

    def __init__(
        self,
        run: RunLike,
        *,
        steps: int = 100,
        seed: int = 0,
        fault: Fault = "",
        at: int | None = None,
        eval_every: int = 20,
        checkpoint_every: int = 25,
        clock: VirtualClock | None = None,
        step_seconds: float = 1.0,
    ) -> None:
        if fault not in FAULTS:
            raise ValueError(f"There is no fault {fault!r}. Faults: {', '.join(filter(None, FAULTS))}.")
        self.run = run
        self.step = 0
        self.state = "running"
        self.steps = steps
        self.fault = fault
        self.at = steps * 2 // 3 if at is None else at
        self._eval_every = eval_every
        self._checkpoint_every = checkpoint_every
        self._clock = clock
        self._step_seconds = step_seconds
        self._random = random.Random(seed)
        self._rate = 2e-4
        self._obeyed = self._checkpoints = 0
        self._skip = 0

    def __repr__(self) -> str:
        return f"<FakeTrainer of {self.run.id!r}, step {self.step} of {self.steps}, {self.state}>"

    def train(self, upto: int | None = None) -> int:
        """Train until step ``upto`` (the end when None), a pause or the end of the run; the last step."""
        end = self.steps if upto is None else min(upto, self.steps)
        self.obey()
        while self.state == "running" and self.step < end:
            self._one_step()
            self.obey()
        if self.state == "running" and self.step >= self.steps:
            self._end("completed")
        return self.step

    def obey(self) -> None:
        """Do what the run was asked for, and answer. Called at each step; while paused, call it (or `train`) to go on."""
        for command in self.run.commands():
            problem = self._do(command)
            self._obeyed += 1
            state: events.CommandState = "refused" if problem else "done"
            self._publish(events.CommandResult(command=command.id, verb=command.verb, state=state, reason=problem))
            if command.verb == "stop" and not problem:
                self._end("stopped", "asked to stop")

    def stats(self) -> TrainerStats:
        """How far it is."""
        return TrainerStats(step=self.step, state=self.state, commands=self._obeyed, checkpoints=self._checkpoints)

    def _one_step(self) -> None:
        self.step += 1
        if self._skip > 0:
            self._skip -= 1
            return
        if self.fault == "killed" and self.step > self.at:
            self.state = "killed"
            return
        loss, norm = self._loss()
        metrics = {"loss": loss, "grad_norm": norm, "learning_rate": self._learning_rate(), "tokens_per_second": 4096 + self._noise(80)}
        epoch = self.step / self.steps
        self._publish(events.Step(step=self.step, total_steps=self.steps, epoch=epoch, tokens=self.step * 4096, metrics=metrics))
        if self._clock is not None:
            self._clock.advance(self._step_seconds)
        if self._eval_every and self.step % self._eval_every == 0:
            self._evaluate()
        if self._checkpoint_every and self.step % self._checkpoint_every == 0:
            self._save()

    def _loss(self) -> tuple[float, float]:
        since = self.step - self.at
        healthy = 0.6 + 2.2 * math.exp(-4 * self.step / self.steps) + self._noise(0.03)
        norm = 0.9 + self._noise(0.1)
        if since < 0 or self.fault in ("", "overfit", "killed"):
            return healthy, norm
        if self.fault == "nan":
            return math.nan, math.nan
        if self.fault == "spike":
            rest = max(0.0, 1 - since / SPIKE_STEPS)
            return healthy + 8 * rest, norm + 20 * rest
        return healthy * 1.12 ** (since + 1), norm * 1.15 ** (since + 1)

    def _learning_rate(self) -> float:
        warm = max(1, self.steps // 20)
        if self.step < warm:
            return self._rate * self.step / warm
        return self._rate * 0.5 * (1 + math.cos(math.pi * (self.step - warm) / max(1, self.steps - warm)))

    def _evaluate(self) -> None:
        progress = self.step / self.steps
        loss = 0.7 + 2.1 * math.exp(-4 * progress) + self._noise(0.01)
        if self.fault == "overfit" and self.step >= self.at:
            loss += 2.0 * (self.step - self.at + 1) / self.steps
        self._publish(events.Eval(step=self.step, dataset="validation", metrics={"loss": loss}, examples=200, duration=1.5))

    def _save(self) -> None:
        self._checkpoints += 1
        digest = f"{self._random.getrandbits(64):016x}"
        name = events.checkpoint_id(self.run.id, self.step, digest)
        path = f"/checkpoints/{self.run.id}/checkpoint-{self.step}"
        for state in ("writing", "complete"):
            size = GIGABYTE if state == "complete" else None
            self._publish(events.Checkpoint(id=name, step=self.step, path=path, host="fake", state=state, bytes=size, digest=digest))

    def _do(self, command: events.Command) -> str:
        """Why it can't be done; empty when it is."""
        verb, value = command.verb, command.arguments.get("learning_rate")
        if verb == "pause":
            self.state = "paused"
        elif verb == "resume":
            self.state = "running"
        elif verb == "save":
            self._save()
        elif verb == "evaluate":
            self._evaluate()
        elif verb == "skip":
            self._skip += int(command.arguments.get("steps", 1))
        elif verb == "set" and isinstance(value, int | float):
            self._rate = float(value)
        elif verb not in ("stop", "free_caches"):
            return f"a fake trainer can't {verb} {command.arguments or ''}".strip()
        return ""

    def _end(self, outcome: events.RunOutcome, reason: str = "") -> None:
        self.state = outcome
        self.run.close(outcome, reason=reason)

    def _noise(self, width: float) -> float:
        return self._random.gauss(0.0, width)

    def _publish(self, event: events.Event) -> None:
        if self._clock is not None:
            event.time = self._clock.wall()
        self.run.publish(event)
