"""What the callback for Lightning does. Knows no class of Lightning's: it is called by hooks, and turns what the trainer shows."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainbus.inject.frameworks import guarded
from trainbus.loggers.sorting import sort
from trainbus.trainer_node.caches import free_caches
from trainbus.trainer_node.control import Control

if TYPE_CHECKING:
    from trainbus.bus.run import Run

PAUSE_POLL_SECONDS = 0.1
EVALUATE_REFUSED = "Lightning validates by its own schedule (val_check_interval)"


class Work:
    """One ``fit``: publishes each optimizer step with its raw loss, evaluations and checkpoints; obeys commands between steps.

    Args:
        run: Where to publish.
        trainer: Lightning's.
    """

    def __init__(self, run: Run, trainer: Any) -> None:
        self._run, self._trainer = run, trainer
        refusal = "steering is not possible in a training of several processes" if trainer.world_size > 1 else ""
        self._steering = LightningSteering(trainer)
        self._control = Control(self._steering, run.result, refusal)
        self._phases: dict[str, ExitStack] = {}
        self._loss: Any = None
        self._rate: float | None = None
        self._step = 0
        self._watch_saves()

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """The first batch is about to be trained on."""
        self._step = trainer.global_step
        self._enter("train")

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any, *_: Any) -> None:
        """Now, because the schedule has moved on when the step ends."""
        self._rate = float(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A batch is done, and with it an optimizer step unless gradients are still being gathered."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is not None and hasattr(loss, "detach"):
            # Lightning has divided it for gradient accumulation: the sum over micro-batches is the loss of the step.
            self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        metrics: dict[str, Any] = {}
        if trainer.log_every_n_steps and self._step % trainer.log_every_n_steps == 0:
            metrics |= sort(trainer.callback_metrics).training
        if self._loss is not None:
            metrics["loss"] = self._loss
        if self._rate is not None:
            metrics["learning_rate"] = self._rate
        self._loss = None
        total = int(trainer.estimated_stepping_batches) if trainer.max_steps < 0 and trainer.max_epochs else trainer.max_steps
        known = {name: value for name, value in metrics.items() if name not in ("step", "epoch", "total_steps", "examples", "tokens")}
        self._run.step(self._step, total_steps=total if total > 0 else None, epoch=float(trainer.current_epoch), **known)
        self._obey()

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        """A validation begins; the check before training is none."""
        if not trainer.sanity_checking:
            self._enter("evaluate")

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        """A validation is done."""
        if trainer.sanity_checking:
            return
        self._leave("evaluate")
        found = sort(trainer.callback_metrics)
        values = {name: value for name, value in found.evaluation.items() if name not in ("step", "dataset", "checkpoint", "examples")}
        if values:
            self._run.eval(trainer.global_step, **values)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """The last batch is done."""
        self._control.finish(self._control.take("stop"), "done", result={"step": trainer.global_step})
        self.close()

    @property
    def stopped(self) -> str:
        """Why the training was asked to stop; empty when it wasn't."""
        return self._control.stopping

    def close(self) -> None:
        """``fit`` is over, or has raised: nothing waits for an answer any more."""
        self._control.abandon("the training has ended")
        for name in list(self._phases):
            self._leave(name)

    def _obey(self) -> None:
        self._take_commands()
        if self._control.paused:
            with self._within("paused"):
                while self._control.paused:
                    time.sleep(PAUSE_POLL_SECONDS)
                    self._take_commands()

    def _take_commands(self) -> None:
        for command in self._run.commands():
            if command.verb == "evaluate":
                self._run.result(command, "refused", EVALUATE_REFUSED)
                continue
            self._control.handle(command)
        if path := self._steering.carry_out():
            self._control.finish(self._control.take("save"), "done", result={"path": path})
        if self._control.stopping:
            self._trainer.should_stop = True

    def _watch_saves(self) -> None:
        """See where checkpoints begin and end: `save_checkpoint` is what Lightning's own callback calls, too."""
        original = self._trainer.save_checkpoint
        if hasattr(original, "trainbus_original"):
            original = original.trainbus_original

        @functools.wraps(original)
        def save_checkpoint(filepath: Any, *args: Any, **kwargs: Any) -> Any:
            with self._within("save"):
                self._told("writing", filepath)
                result = original(filepath, *args, **kwargs)
            self._told("complete", filepath)
            return result

        save_checkpoint.trainbus_original = original  # type: ignore[attr-defined]
        self._trainer.save_checkpoint = save_checkpoint

    @guarded("a checkpoint of Lightning could not be published")
    def _told(self, state: Any, path: Any) -> None:
        if "://" not in str(path) and (state == "writing" or Path(path).exists()):
            self._run.checkpoint(path, step=self._trainer.global_step, state=state)

    def _enter(self, name: str) -> None:
        self._leave(name)
        self._phases[name] = ExitStack()
        self._phases[name].enter_context(self._run.phase(name))

    def _leave(self, name: str) -> None:
        stack = self._phases.pop(name, None)
        if stack is not None:
            stack.close()

    @contextmanager
    def _within(self, name: str) -> Iterator[None]:
        with self._run.phase(name):
            yield


class LightningSteering:
    """`trainbus.trainer_node.control.Steering` for Lightning's Trainer."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._save = False

    def stop(self, reason: str) -> None:
        """Save, then end."""
        self._save = True

    def save(self) -> None:
        """Save when `carry_out` is called."""
        self._save = True

    def evaluate(self) -> bool:
        """Not between steps."""
        return False

    def pause(self, paused: bool) -> None:
        """Nothing to turn: the callback waits while the control says paused."""

    def free_caches(self) -> dict[str, int]:
        """Now."""
        return free_caches()

    def carry_out(self) -> str:
        """Save, if it was asked for; gives the path."""
        if not self._save:
            return ""
        self._save = False
        callback = self._trainer.checkpoint_callback
        folder = getattr(callback, "dirpath", None) or self._trainer.default_root_dir
        path = Path(folder) / f"trainbus-step={self._trainer.global_step}.ckpt"
        self._trainer.save_checkpoint(path)
        return str(path)

    def set_learning_rate(self, value: float) -> float:
        """Set the next step's learning rate, and scale the rest of the schedule alike; gives the value before."""
        groups = [group for optimizer in self._trainer.optimizers for group in optimizer.param_groups]
        before = float(groups[0]["lr"])
        ratio = value / before if before > 0 else None
        for group in groups:
            group["lr"] = value if ratio is None else group["lr"] * ratio
            if "initial_lr" in group:
                group["initial_lr"] = value if ratio is None else group["initial_lr"] * ratio
        for configuration in self._trainer.lr_scheduler_configs:
            scheduler = configuration.scheduler
            if hasattr(scheduler, "base_lrs"):
                scheduler.base_lrs = [value if ratio is None else rate * ratio for rate in scheduler.base_lrs]
        return before

    def intervals(self) -> list[str]:
        """None that could be changed while it runs."""
        return []

    def set_interval(self, name: str, value: int) -> int:
        """Never called: there are none."""
        raise KeyError(name)
