"""A decay of the learning rate that can be asked for while the training runs, on top of whatever schedule it has.

A training without an end warms up and stays constant; what it has learned settles when the rate falls to 0 at last. When that shall be, a
person decides: `trainbus control set decay_steps=200`.
"""

from __future__ import annotations

from typing import Any

from trainbus.errors import ConfigError


class Decaying:
    """A factor of the learning rate by the step, as torch's ``LambdaLR`` calls it.

    LambdaLR keeps the ``__dict__`` of such an object in its state, so a decay goes on when a training is resumed. The course itself is no
    part of that state: a checkpoint must hold nothing but plain values.
    """

    __slots__ = ("__dict__", "_course")

    def __init__(self, course: Any) -> None:
        self._course = course
        self.decay_from = 0
        self.decay_steps = 0

    def __call__(self, step: int) -> float:
        """The course's factor, less what the decay takes: nothing at its first step, all of it at its last."""
        factor = float(self._course(step))
        return factor * max(0.0, 1 - (step - self.decay_from) / self.decay_steps) if self.decay_steps else factor

    def undecayed(self, step: int) -> float:
        """The factor without the decay."""
        return float(self._course(step))


def make_decayable(trainer: Any) -> None:
    """Let the schedule that a transformers Trainer will make be decayed. Schedules that follow metrics stay as they are.

    Raises:
        ConfigError: From the Trainer's ``create_scheduler``: its options don't fit the schedule.
    """
    original = trainer.create_scheduler

    def create_scheduler(*args: Any, **kwargs: Any) -> Any:
        try:
            scheduler = original(*args, **kwargs)
        except (TypeError, ValueError) as error:
            arguments = trainer.args
            raise ConfigError(
                f"The schedule {arguments.lr_scheduler_type.value} can't be made with {arguments.lr_scheduler_kwargs}: {error}",
                hint="transformers' documentation of its optimizers names the options of each schedule.",
                key="trainer.scheduler_options",
            ) from error
        if hasattr(scheduler, "lr_lambdas"):
            scheduler.lr_lambdas = [course if isinstance(course, Decaying) else Decaying(course) for course in scheduler.lr_lambdas]
        return scheduler

    trainer.create_scheduler = create_scheduler


def courses(scheduler: Any) -> list[Decaying]:
    """What `make_decayable` made of a scheduler; empty when it can't be decayed."""
    return [course for course in getattr(scheduler, "lr_lambdas", ()) if isinstance(course, Decaying)]


def decay(scheduler: Any, steps: int) -> int:
    """Let the rate fall to 0 over the next steps, in a line. Returns the steps of the decay that was under way, 0 for none."""
    before = 0
    for course in courses(scheduler):
        before = course.decay_steps
        course.decay_from, course.decay_steps = scheduler.last_epoch, steps
    return before


def end_decay(scheduler: Any, optimizer: Any) -> None:
    """Go back to the schedule as it would be without a decay."""
    for course, base, group in zip(courses(scheduler), scheduler.base_lrs, optimizer.param_groups, strict=False):
        if course.decay_steps:
            course.decay_steps = 0
            group["lr"] = base * course.undecayed(scheduler.last_epoch)
