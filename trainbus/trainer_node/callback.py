"""Publishes what a transformers Trainer does, and obeys commands: ``attach(trainer, run)``.

Importing this module imports transformers: do it only where training runs.

Trainer's events carry no loss, and what it logs has NaN replaced by a mean of earlier losses (``logging_nan_inf_filter``). So
`attach` wraps four methods of the one trainer: ``training_step`` (its result is the raw loss of a micro-batch),
``_get_grad_norm`` (the norm that Trainer computes anyway), ``evaluate`` and ``_save_checkpoint`` (to see where they begin).
Losses stay on the device as 0-d tensors; the sending side copies them without waiting for the device.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from transformers import TrainerCallback

from trainbus.trainer_node.agreeing import Agreement
from trainbus.trainer_node.checkpoints import Marker
from trainbus.trainer_node.containment import contained
from trainbus.trainer_node.control import Control, ControlStats
from trainbus.trainer_node.evaluation.trainer_metrics import measured
from trainbus.trainer_node.finite import Doubt
from trainbus.trainer_node.metering import Meter
from trainbus.trainer_node.ranks import Ranks
from trainbus.trainer_node.room import Room, wait_for_room
from trainbus.trainer_node.saving import Saving
from trainbus.trainer_node.sealing import SealerStats
from trainbus.trainer_node.steering import TrainerSteering
from trainbus.trainer_node.wrapping import Wrapper
from trainbus.trainer_node.writing import Writing

if TYPE_CHECKING:
    from trainbus.bus.run import Run
    from trainbus.trainer_node.beforehand import Beforehand
    from trainbus.trainer_node.evaluation.examination import Examination

log = logging.getLogger(__name__)

PAUSE_POLL_SECONDS = 0.1
"""While paused the run looks for commands this often: quick for a person, nothing for a machine."""


def _end_now(control: Any) -> None:
    """End the training without saving: its weights are ruined."""
    control.should_training_stop = True
    control.should_save = control.should_evaluate = False


class CallbackStats(Struct, frozen=True, kw_only=True):
    """What the callback did. ``errors`` are failures of its own, which never reach the training."""

    steps: int
    errors: int
    last_error: str
    examples: int
    tokens: int
    control: ControlStats
    sealer: SealerStats


def attach(trainer: Any, run: Run, **options: Any) -> TrainbusCallback:
    """Publish everything that ``trainer`` does to ``run``, and let the run's commands steer it.

    Call it once, before ``trainer.train()``; under torchrun only the first process publishes, but with ``ranks``. Options are those of
    `TrainbusCallback`.
    """
    callback = TrainbusCallback(run, **options)
    if trainer.is_world_process_zero() or options.get("ranks") is not None:
        callback.bind(trainer)
    return callback


class TrainbusCallback(TrainerCallback):
    """Use `attach`: as a plain callback it sees neither raw losses nor where evaluating and saving begin.

    Args:
        run: Where to publish; it is not closed here.
        name: The run's name, for checkpoint markers.
        examples: Examples seen before this process began (a resumed training).
        tokens: Tokens seen before, padding included: counting what is not padding would have to ask the device.
        packs: Where rows are packs: how many examples each micro-batch to come holds.
        beforehand: What was asked for while data and model were loaded.
        positions: For a part of a continuous training: gives what a checkpoint's marker says of positions, from the rows seen in this
            process. The command skip then ends the part.
        phase_began: Told the name of each phase that begins in the training, and ``train`` when it is over.
        room: Asked before each save: where there is none, training waits for it.
        guard: End the training, without saving, when loss or gradient norm are no finite numbers: the weights are ruined then.
        examination: Adds to each evaluation what it measures.
        save_every: Seconds after which a checkpoint is saved although Trainer would not yet; 0 for never.
        ranks: All processes of the training, each of which has attached a callback: then commands and signals act on all of them at the
            same step, and each publishes its own pace. Without it, only the first process publishes, and takes no commands.
    """

    def __init__(
        self,
        run: Run,
        *,
        name: str = "",
        examples: int = 0,
        tokens: int = 0,
        guard: bool = False,
        room: Room | None = None,
        examination: Examination | None = None,
        save_every: float = 0.0,
        ranks: Ranks | None = None,
        packs: deque[int] | None = None,
        beforehand: Beforehand | None = None,
        positions: Callable[[int], Mapping[str, int]] | None = None,
        phase_began: Callable[[str], None] | None = None,
    ) -> None:
        self._run = run
        self._guard = guard
        self._room = room
        self.examination = examination
        self._save_every = save_every
        self._ranks = ranks or Ranks()
        self._agreement: Agreement | None = None
        self._signal = ""
        self._trainer: Any = None
        self._saving = Saving(run, name, lambda: self._control)
        self._train_phase = ExitStack()
        self._meter = Meter(run, examples, tokens, self.failed)
        self._meter.packs = packs
        self._beforehand = beforehand
        self._positions = positions
        self._phase_began = phase_began or (lambda _: None)
        self._errors = 0
        self._last_error = ""
        self._doubt = Doubt()
        self._evaluated: tuple[int, dict[str, float]] = (-1, {})
        self._stop_reason = ""

    @property
    def first_loss(self) -> Any:
        """Of the first step in this process; None before."""
        return self._meter.first_loss

    @property
    def last_loss(self) -> Any:
        """Of the last step; None before the first."""
        return self._meter.last_loss

    @property
    def complete(self) -> list[Marker]:
        """Markers of the checkpoints that became whole."""
        return self._saving.complete

    @property
    def failure(self) -> str:
        """Why the training was ended: its weights are ruined. Empty when it wasn't."""
        return self._doubt.failure

    @property
    def stopped(self) -> str:
        """Why the training was asked to stop; empty when it wasn't."""
        return self._control.stopping or self._stop_reason

    @property
    def hurried(self) -> bool:
        """Whether somebody wants this process to stop, be it agreed on or not."""
        return bool(self._signal or self.stopped)

    @property
    def skipped(self) -> bool:
        """Whether it was asked to stop because another file shall come first."""
        return self._control.skipping

    @property
    def evaluated(self) -> dict[str, float]:
        """Metrics of the last evaluation, by names that begin with ``eval_``."""
        return self._evaluated[1]

    def bind(self, trainer: Any) -> None:
        """Wrap the trainer's methods and become one of its callbacks."""
        self._trainer = trainer
        self._wrapper = Wrapper(trainer)
        world = max(1, trainer.args.world_size)
        if self._ranks.size > 1:
            self._agreement = Agreement(self._ranks, trainer)
            self._wrapper.wrap("compute_loss", self._compute_loss)
        self._meter.bind(world, self._agreement)
        refusal = "steering is not possible in a training of several processes" if world > self._ranks.size else ""
        self._steering = self._agreement.steering if self._agreement is not None else TrainerSteering(trainer)
        self._control = Control(self._steering, self._run.result, refusal, skippable=self._positions is not None)
        self._wrapper.wrap("training_step", self._meter.training_step)
        if hasattr(trainer, "_get_grad_norm"):  # Trainers before transformers 5 have none
            self._wrapper.wrap("_get_grad_norm", self._meter.grad_norm_of)
        self._wrapper.wrap("evaluate", self._evaluate)
        writing = Writing(trainer, self._ranks, self._room, self._saving, self)
        self._wrapper.wrap("_save_checkpoint", writing.save)
        trainer.add_callback(self)

    def unbind(self) -> None:
        """Leave the trainer as it was before `bind`."""
        self._wrapper.undo()
        self._trainer.remove_callback(self)

    def request_stop(self, reason: str) -> None:
        """Save and end after the current step. Safe in a signal handler."""
        self._signal = reason
        if self._ranks.size == 1:
            self._heed()

    def close(self) -> None:
        """Wait for checkpoints that are being finished, and answer commands that wait in vain. Call it when training has raised."""
        self._saving.sealer.close()
        self._control.abandon("the training has ended")
        self._train_phase.close()

    def stats(self) -> CallbackStats:
        """Counts so far."""
        return CallbackStats(
            steps=self._meter.steps,
            errors=self._errors,
            last_error=self._last_error,
            examples=self._meter.examples,
            tokens=self._meter.tokens,
            control=self._control.stats(),
            sealer=self._saving.sealer.stats(),
        )

    def failed(self, where: str, error: Exception) -> None:
        """Count a failure of the callback itself; the first is logged."""
        self._errors += 1
        self._last_error = f"{where}: {error!r}"
        if self._errors == 1:
            log.error("trainbus: %s failed; training goes on, further failures are only counted", where, exc_info=error)

    # -- Trainer's events

    def on_train_begin(self, args: Any, state: Any, control: Any, *, optimizer: Any = None, **_: Any) -> None:
        """The first step is about to begin; it waits where somebody has said pause while data and model were loaded."""
        if self._trainer is None:
            log.warning("trainbus: this callback is not attached, so nothing is published: use attach(trainer, run)")
            return
        self._begin(optimizer)
        if self._agreement is not None:
            self._agree(self._agreement)  # outside, as at the end of a step
        self._pause_if_asked()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One optimizer step is done: publish it, then see what is asked for."""
        if self._trainer is None:
            return
        try:
            self._meter.publish(state)
            if self._guard:
                self._doubt.note(self._meter.last_loss, self._meter.grad_norm)
                self._stop_if_ruined(state, control)
            if self.examination is not None and self._meter.last_loss is not None:
                self.examination.saw(self._meter.last_loss)
            if self._ranks.rank == 0:
                self._take_commands()
                if self._save_every and time.monotonic() - self._saving.saved_at >= self._save_every:
                    self._steering.save()
        except Exception as error:  # noqa: BLE001 - as `contained`, without its two calls at each step
            self.failed("on_step_end", error)
        if self._agreement is not None:
            self._agree(self._agreement, control)  # outside: who fails to agree must not go on alone
        try:
            if self._control.paused:
                self._wait()
            if self._stop_reason and not self._control.stopping:
                self._control.stopping = self._stop_reason
                self._steering.stop(self._stop_reason)
            if self._steering.pending and not self.failure:
                self._steering.apply(control)
        except Exception as error:  # noqa: BLE001 - as above
            self.failed("on_step_end", error)

    @contained
    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any) -> None:
        """An evaluation set has been measured: publish its metrics without their prefix."""
        if self._trainer is None or not metrics:
            return
        told = measured(metrics)
        values: dict[str, Any] = told.metrics
        if self.examination is not None and not told.dataset:
            examined = self._examined(self.examination, state.global_step, values)
            values |= examined
            metrics.update({f"{told.prefix}{name}": value for name, value in examined.items()})
        self._run.eval(state.global_step, dataset=told.dataset, duration=told.seconds, **values)
        self._evaluated = (state.global_step, {f"eval_{name}": value for name, value in values.items()})
        self._control.finish(self._control.take("evaluate"), "done", result=values)

    @contained
    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The last step is done; the last checkpoint may still be being digested."""
        if self._trainer is None:
            return
        self._saving.sealer.settle()
        checkpoint = self._saving.complete[-1].id if self._saving.complete else None
        self._control.finish(self._control.take("stop"), "done", result={"step": state.global_step, "checkpoint": checkpoint})
        self._control.abandon("the training has ended")
        self._train_phase.close()

    # -- the wrapped methods: what is original must run whatever happens in ours

    def _evaluate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self.phase("evaluate"):
            result = original(*args, **kwargs)
            self._ranks.wait()  # the first process asks questions; the others would wait for it in a group that loses patience
            return result

    def _compute_loss(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if self._agreement is not None and self._trainer.model.training:
            self._agreement.own.end()
        return result

    # -- ours

    @contained
    def _begin(self, optimizer: Any) -> None:
        self._train_phase.enter_context(self.phase("train"))
        self._meter.begin(optimizer.param_groups[0])
        if self._beforehand is not None:
            self._control.paused = self._beforehand.paused
            for command in self._beforehand.waiting:
                self._control.handle(command)
            self._take_commands()

    @contained
    def _pause_if_asked(self) -> None:
        if self._control.paused:
            self._wait()

    def _stop_if_ruined(self, state: Any, control: Any) -> None:
        if (self._doubt.cheap or control.should_log or state.global_step == state.max_steps) and self._doubt.ruined(state.global_step):
            _end_now(control)

    def _take_commands(self) -> None:
        if commands := self._run.commands():
            for command in commands:
                self._control.handle(command)

    def _heed(self) -> None:
        """A signal is heeded: at once by a process that is alone, else when all have heard of it."""
        self._stop_reason = self._signal
        self._control.paused = False

    def _agree(self, agreement: Agreement, control: Any = None) -> None:
        """Come to the same decision as the other processes of the training; see `trainbus.trainer_node.agreeing`."""
        agreed = agreement.reach(
            stop=bool(self._signal), ruined=bool(self.failure), paused=self._control.paused, examples=self._meter.counted
        )
        self._meter.settle(agreed.examples)
        if agreed.turns is not None:
            for name, arguments in agreed.turns.calls:
                if name == "stop":
                    self._control.stopping = str(arguments[0])
                getattr(self._steering, name)(*arguments)
            self._control.paused = agreed.turns.paused
        if agreed.ruined and control is not None:
            self._doubt.failure = self.failure or "the loss or gradient norm of another process is no finite number: nothing is saved"
            _end_now(control)
        if agreed.stop:
            self._signal = self._signal or "another process of the training was asked to stop"
            self._heed()

    def _wait(self) -> None:
        with self.phase("paused"):
            while self._control.paused:
                self._steering.carry_out()
                time.sleep(PAUSE_POLL_SECONDS)
                self._take_commands()
                if self._agreement is not None:
                    self._agree(self._agreement)

    # -- what writing a checkpoint asks

    def ruined(self) -> bool:
        """Whether the weights must not be saved."""
        return bool(self.failure) or (self._guard and self._doubt.ruined(self._trainer.state.global_step))

    def has_room(self) -> bool:
        """Wait until a checkpoint has room on its disk; False when the training is to end first, without this save."""
        step, ended = self._trainer.state.global_step, lambda: bool(self.hurried)
        return self._room is None or wait_for_room(self._room, self._run, step, phase=self.phase, turn=self._take_commands, ended=ended)

    def _examined(self, examination: Examination, step: int, measured: dict[str, float]) -> dict[str, float]:
        """What it adds; nothing when it fails, and what was measured is published all the same."""
        try:
            return examination.examine(step, measured)
        except Exception as error:  # noqa: BLE001 - as `contained`
            self.failed("examine", error)
            return {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A phase of the run; the time in it does not count as time of a step."""
        self._phase_began(name)
        with self._run.phase(name):
            yield
        self._phase_began("train")
        self._meter.mark()

    @contained
    def before_save(self, path: Path, step: int) -> None:
        """Trainer is about to write."""
        metrics = {"loss": float(self.last_loss)} if self.last_loss is not None else {}
        self._saving.begin(path, step, metrics | self._evaluated[1] if self._evaluated[0] == step else metrics)

    @contained
    def after_save(self, path: Path, step: int) -> None:
        """Trainer has written everything."""
        if self.examination is not None:
            self.examination.enclose(path)
        positions = self._positions(self._meter.rows) if self._positions is not None else None
        self._saving.end(path, step, examples=self._meter.examples, tokens=self._meter.tokens, positions=positions)
