"""Publishes what a transformers Trainer does, and obeys commands: ``attach(trainer, run)``.

Importing this module imports transformers: do it only where training runs.

Trainer's events carry no loss, and what it logs has NaN replaced by a mean of earlier losses (``logging_nan_inf_filter``). So
`attach` wraps four methods of the one trainer: ``training_step`` (its result is the raw loss of a micro-batch),
``_get_grad_norm`` (the norm that Trainer computes anyway), ``evaluate`` and ``_save_checkpoint`` (to see where they begin).
Losses stay on the device as 0-d tensors; the sending side copies them without waiting for the device.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from msgspec import Struct
from transformers import TrainerCallback

from trainbus.trainer_node.agreeing import Agreement
from trainbus.trainer_node.allocators import Allocators
from trainbus.trainer_node.checkpoints import Marker
from trainbus.trainer_node.control import Control, ControlStats
from trainbus.trainer_node.finite import Doubt
from trainbus.trainer_node.ranks import Ranks
from trainbus.trainer_node.room import Room, is_disk_full, wait_for_room
from trainbus.trainer_node.saving import Saving
from trainbus.trainer_node.sealing import SealerStats
from trainbus.trainer_node.steering import TrainerSteering

if TYPE_CHECKING:
    from trainbus.bus.run import Run
    from trainbus.trainer_node.evaluation.examination import Examination

log = logging.getLogger(__name__)
M = TypeVar("M", bound=Callable[..., None])

PAUSE_POLL_SECONDS = 0.1
"""While paused the run looks for commands this often: quick for a person, nothing for a machine."""

_SPEEDS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


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


def contained(method: M) -> M:
    """A failure in here is counted and logged once, and the training goes on."""

    @functools.wraps(method)
    def call(self: TrainbusCallback, *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - monitoring must never fail the training
            self.failed(method.__name__, error)

    return cast(M, call)


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
        positions: For a part of a continuous training: gives what a checkpoint's marker says of positions, from the examples seen in
            this process. The command skip then ends the part.
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
        self._wrapped: list[str] = []
        self._saving = Saving(run, name, lambda: self._control)
        self._allocators = Allocators()
        self._train_phase = ExitStack()
        self._loss: Any = None
        self._grad_norm: Any = None
        self._group: dict[str, Any] = {}
        self._learning_rate: Any = None
        self._batch_examples = self._batch_tokens = 0
        self._examples, self._tokens = examples, tokens
        self._examples_before = examples
        self._positions = positions
        self._phase_began = phase_began or (lambda _: None)
        self._steps = self._errors = 0
        self._last_error = ""
        self._mark = 0.0
        self._doubt = Doubt()
        self._evaluated: tuple[int, dict[str, float]] = (-1, {})
        self._stop_reason = ""
        self.first_loss: Any = None
        self.last_loss: Any = None

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
        self._world = max(1, trainer.args.world_size)
        if self._ranks.size > 1:
            self._agreement = Agreement(self._ranks, trainer)
            self._wrap("compute_loss", self._compute_loss)
        refusal = "steering is not possible in a training of several processes" if self._world > self._ranks.size else ""
        self._steering = self._agreement.steering if self._agreement is not None else TrainerSteering(trainer)
        self._control = Control(self._steering, self._run.result, refusal, skippable=self._positions is not None)
        self._wrap("training_step", self._training_step)
        if hasattr(trainer, "_get_grad_norm"):  # Trainers before transformers 5 have none
            self._wrap("_get_grad_norm", self._grad_norm_of)
        self._wrap("evaluate", self._evaluate)
        self._wrap("_save_checkpoint", self._save)
        trainer.add_callback(self)

    def unbind(self) -> None:
        """Leave the trainer as it was before `bind`."""
        for name in self._wrapped:
            vars(self._trainer).pop(name, None)
        self._wrapped.clear()
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
            steps=self._steps,
            errors=self._errors,
            last_error=self._last_error,
            examples=self._examples,
            tokens=self._tokens,
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

    @contained
    def on_train_begin(self, args: Any, state: Any, control: Any, *, optimizer: Any = None, **_: Any) -> None:
        """The first step is about to begin."""
        if self._trainer is None:
            log.warning("trainbus: this callback is not attached, so nothing is published: use attach(trainer, run)")
            return
        self._group = optimizer.param_groups[0]  # the dict lives as long as the training; the way to it is a detour at each step
        self._train_phase.enter_context(self._phase("train"))
        self._mark = time.perf_counter()
        if self._agreement is not None:
            self._agreement.own.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One optimizer step is done: publish it, then see what is asked for."""
        if self._trainer is None:
            return
        try:
            self._publish_step(state)
            if self._guard:
                self._stop_if_ruined(state, control)
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
        prefix = next((name.removesuffix("loss") for name in metrics if name.endswith("loss")), "eval_")
        values = {
            name.removeprefix(prefix): float(value) for name, value in metrics.items() if isinstance(value, int | float) and name != "epoch"
        }
        dataset = prefix.removeprefix("eval_").strip("_")
        measured: dict[str, Any] = {name: value for name, value in values.items() if name not in _SPEEDS}
        if self.examination is not None and not dataset:
            examined = self._examined(self.examination, state.global_step, measured)
            measured |= examined
            metrics.update({f"{prefix}{name}": value for name, value in examined.items()})
        self._run.eval(state.global_step, dataset=dataset, duration=values.get("runtime"), **measured)
        self._evaluated = (state.global_step, {f"eval_{name}": value for name, value in measured.items()})
        self._control.finish(self._control.take("evaluate"), "done", result=measured)

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

    def _wrap(self, name: str, around: Callable[..., Any]) -> None:
        original = getattr(self._trainer, name)

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return around(original, *args, **kwargs)

        setattr(self._trainer, name, wrapped)
        self._wrapped.append(name)

    def _training_step(self, original: Callable[..., Any], model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss = original(model, inputs, *args, **kwargs)
        try:
            self._learning_rate = self._group.get("lr")  # now, because the schedule has moved on when the step ends
            # Detached and already divided for gradient accumulation: the sum over micro-batches is the loss that Trainer logs.
            self._loss = loss if self._loss is None else self._loss + loss
            ids = inputs.get("input_ids") if hasattr(inputs, "get") else None
            if ids is not None:
                shape = ids.shape
                self._batch_examples += shape[0]
                self._batch_tokens += shape.numel()
            if self._agreement is not None:
                self._agreement.own.begin()
        except Exception as error:  # noqa: BLE001 - a Trainer of somebody's own may give anything here
            self.failed("training_step", error)
        return loss

    def _grad_norm_of(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._grad_norm = original(*args, **kwargs)
        return self._grad_norm

    def _evaluate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._phase("evaluate"):
            result = original(*args, **kwargs)
            self._ranks.wait()  # the first process asks questions; the others would wait for it in a group that loses patience
            return result

    def _compute_loss(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if self._agreement is not None and self._trainer.model.training:
            self._agreement.own.end()
        return result

    def _save(self, original: Callable[..., Any], model: Any, trial: Any, *args: Any, **kwargs: Any) -> Any:
        step = self._trainer.state.global_step
        ruined = bool(self.failure) or (self._guard and self._doubt.ruined(step))
        if self._ranks.any(ruined):
            return None
        if self._ranks.any(self._ranks.rank == 0 and not self._has_room()):
            return None
        if self._ranks.rank:
            result = original(model, trial, *args, **kwargs)
            self._ranks.wait()
            return result
        path = Path(self._trainer._get_output_dir(trial=trial)).absolute() / f"checkpoint-{step}"
        self._before_save(path, step)
        while True:
            try:
                with self._phase("save"):
                    result = original(model, trial, *args, **kwargs)
                    self._ranks.wait()  # every process writes files into it
                break
            except Exception as error:
                if self._room is None or self._ranks.size > 1 or not is_disk_full(error):  # several can't begin it again by themselves
                    raise
                self._room.failed(path)
                if not self._has_room():
                    self._saving.give_up(path, "the disk is full")
                    return None
        if self._room is not None:
            self._room.saved()
        self._after_save(path, step)
        return result

    # -- ours

    def _publish_step(self, state: Any) -> None:
        now = time.perf_counter()
        elapsed = now - self._mark or math.inf
        examples, tokens = self._batch_examples * self._world, self._batch_tokens * self._world
        self._examples += examples
        self._tokens += tokens
        self._steps += 1
        metrics: dict[str, Any] = {"tokens_per_second": tokens / elapsed, "samples_per_second": examples / elapsed}
        if self._loss is not None:
            metrics["loss"] = self._loss
        if self._grad_norm is not None:
            metrics["grad_norm"] = self._grad_norm
        if self._learning_rate is not None:
            metrics["learning_rate"] = self._learning_rate
        if self._agreement is not None:
            metrics |= self._agreement.pace(elapsed)
        if now >= self._allocators.due:
            metrics |= self._allocators.read()
        self._run.step(
            state.global_step, total_steps=state.max_steps, epoch=state.epoch, examples=self._examples, tokens=self._tokens, **metrics
        )
        if self._guard:
            self._doubt.note(self._loss, self._grad_norm)
        if self.examination is not None and self._loss is not None:
            self.examination.saw(self._loss)
        if self.first_loss is None:
            self.first_loss = self._loss
        self.last_loss, self._loss = self._loss, None
        self._batch_examples = self._batch_tokens = 0
        self._mark = now

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
        agreed = agreement.reach(stop=bool(self._signal), ruined=bool(self.failure), paused=self._control.paused)
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
        with self._phase("paused"):
            while self._control.paused:
                self._steering.carry_out()
                time.sleep(PAUSE_POLL_SECONDS)
                self._take_commands()
                if self._agreement is not None:
                    self._agree(self._agreement)

    def _has_room(self) -> bool:
        """Wait until a checkpoint has room on its disk; False when the training is to end first, without this save."""
        step, ended = self._trainer.state.global_step, lambda: bool(self.hurried)
        return self._room is None or wait_for_room(self._room, self._run, step, phase=self._phase, turn=self._take_commands, ended=ended)

    def _examined(self, examination: Examination, step: int, measured: dict[str, float]) -> dict[str, float]:
        """What it adds; nothing when it fails, and what was measured is published all the same."""
        try:
            return examination.examine(step, measured)
        except Exception as error:  # noqa: BLE001 - as `contained`
            self.failed("examine", error)
            return {}

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """A phase of the run; the time in it does not count as time of a step."""
        self._phase_began(name)
        with self._run.phase(name):
            yield
        self._phase_began("train")
        self._mark = time.perf_counter()

    @contained
    def _before_save(self, path: Path, step: int) -> None:
        metrics = {"loss": float(self.last_loss)} if self.last_loss is not None else {}
        self._saving.begin(path, step, metrics | self._evaluated[1] if self._evaluated[0] == step else metrics)

    @contained
    def _after_save(self, path: Path, step: int) -> None:
        if self.examination is not None:
            self.examination.enclose(path)
        positions = self._positions(self._examples - self._examples_before) if self._positions is not None else None
        self._saving.end(path, step, examples=self._examples, tokens=self._tokens, positions=positions)
