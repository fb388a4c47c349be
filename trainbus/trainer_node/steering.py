"""`trainbus.trainer_node.control.Steering` for transformers' Trainer.

Trainer acts on its flags at the end of a step. While a run is paused there is no end of a step, so what is asked for then is
carried out on the spot.
"""

from __future__ import annotations

from typing import Any

from trainbus.trainer_node.caches import free_caches
from trainbus.trainer_node.schedule import courses, decay, end_decay

_STRATEGIES = {"save_steps": "save_strategy", "eval_steps": "eval_strategy", "logging_steps": "logging_strategy"}
DECAY = "decay_steps"


class TrainerSteering:
    """Turns a Trainer. Used from the training thread only, between steps."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._paused = False
        self._save = self._evaluate = self._stop = False

    def stop(self, reason: str) -> None:
        """Save, then end the training, when `apply` is called."""
        self._stop = self._save = True

    def save(self) -> None:
        """Save when `apply` or `carry_out` is called."""
        self._save = True

    def evaluate(self) -> bool:
        """Evaluate when `apply` or `carry_out` is called; False without evaluation data."""
        if self._trainer.eval_dataset is None:
            return False
        self._evaluate = True
        return True

    def pause(self, paused: bool) -> None:
        """Nothing to turn: the callback waits while the control says paused."""

    def free_caches(self) -> dict[str, int]:
        """Now: between two steps nothing is in use that a cache could hold."""
        return free_caches()

    @property
    def pending(self) -> bool:
        """Whether `apply` has anything to do."""
        return self._save or self._evaluate or self._stop

    def apply(self, control: Any) -> None:
        """Set Trainer's flags for what was asked for; it acts on them right after the step."""
        control.should_save = control.should_save or self._save
        control.should_evaluate = control.should_evaluate or self._evaluate
        control.should_training_stop = control.should_training_stop or self._stop
        self._save = self._evaluate = False

    def carry_out(self) -> None:
        """Do what was asked for now, without waiting for the end of a step."""
        if self._evaluate:
            self._evaluate = False
            self._trainer.evaluate()
        if self._save and not self._stop:
            self._save = False
            self._trainer._save_checkpoint(self._trainer.model_wrapped, None)

    def set_learning_rate(self, value: float) -> float:
        """Set the next step's learning rate; gives the value before.

        The schedule goes on in the same proportion: its base rates are scaled by the ratio. Where the rate is 0 now (the first
        step of a warm-up) there is no ratio, and the value becomes the base rate. A decay that was asked for ends. A schedule that
        follows metrics has no base rates and goes on from the value.
        """
        scheduler, groups = self._scheduler, self._trainer.optimizer.param_groups
        before = float(groups[0]["lr"])
        end_decay(scheduler, self._trainer.optimizer)
        now = float(groups[0]["lr"])
        for number, group in enumerate(groups):
            if hasattr(scheduler, "base_lrs"):
                base = scheduler.base_lrs[number]
                scheduler.base_lrs[number] = group["initial_lr"] = base * value / now if now > 0 else value
            group["lr"] = group["lr"] * value / now if now > 0 else value
        scheduler._last_lr = [group["lr"] for group in groups]
        return before

    @property
    def _scheduler(self) -> Any:
        scheduler = self._trainer.lr_scheduler
        return getattr(scheduler, "scheduler", scheduler)  # accelerate may have wrapped it

    def intervals(self) -> list[str]:
        """The intervals that Trainer looks at: those whose strategy counts steps. And the length of a decay, where the schedule has one."""
        counted = [name for name, strategy in _STRATEGIES.items() if getattr(self._trainer.args, strategy) == "steps"]
        return [*counted, DECAY] if courses(self._scheduler) else counted

    def set_interval(self, name: str, value: int) -> int:
        """Set one of `intervals`; gives the value before."""
        if name == DECAY:
            return decay(self._scheduler, value)
        before = int(getattr(self._trainer.state, name))
        setattr(self._trainer.state, name, value)
        return before
