"""What a run does when it is asked for something: one function for each verb, on a narrow view of the training.

Knows nothing of transformers: `Steering` is what the callback lends it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from trainbus.bus.events import Command, CommandState


class Steering(Protocol):
    """What commands can turn. All of it acts at the next boundary between optimizer steps."""

    def stop(self, reason: str) -> None:
        """Save, then end the training."""

    def save(self) -> None:
        """Save a checkpoint."""

    def evaluate(self) -> bool:
        """Evaluate; False when there is nothing to evaluate on."""

    def pause(self, paused: bool) -> None:
        """Wait before the next step, or go on."""

    def free_caches(self) -> Mapping[str, int]:
        """Give memory back that is held without need; gives what came of it."""

    def set_learning_rate(self, value: float) -> float:
        """Set the next step's learning rate and scale the rest of the schedule alike; gives the value before."""

    def intervals(self) -> Sequence[str]:
        """Which of ``save_steps``, ``eval_steps``, ``logging_steps`` and ``decay_steps`` count in this training."""

    def set_interval(self, name: str, value: int) -> int:
        """Set one of `intervals`; gives the value before."""


Answer = Callable[..., None]
"""``answer(command, state, reason="", **result)``."""

LEARNING_RATE = "learning_rate"


class ControlStats(Struct, frozen=True, kw_only=True):
    """Commands so far."""

    accepted: int
    refused: int
    waiting: int
    paused: bool


class Control:
    """Takes commands and answers them: accepted, then done or refused with a reason. Each command is answered to an end.

    Args:
        steering: The training.
        answer: Publishes what becomes of a command.
        refuse_all: Reason for which this process takes no commands at all; empty when it does.
        skippable: Whether there is another file that can be trained on.
    """

    def __init__(self, steering: Steering, answer: Answer, refuse_all: str = "", *, skippable: bool = False) -> None:
        self._steering = steering
        self._answer = answer
        self._refuse_all = refuse_all
        self._skippable = skippable
        self._waiting: dict[str, list[Command]] = {"save": [], "evaluate": [], "stop": []}
        self._accepted = self._refused = 0
        self.paused = False
        self.stopping = ""
        self.skipping = False

    def handle(self, command: Command) -> None:
        """Act on one command. Called between steps, also while paused."""
        handler = self._HANDLERS.get(command.verb)
        if self._refuse_all:
            self._refuse(command, self._refuse_all)
        elif handler is None:
            self._refuse(command, f"unknown verb {command.verb!r}; allowed: {', '.join(sorted(self._HANDLERS))}")
        elif self.stopping and command.verb != "stop":
            self._refuse(command, "the run is stopping")
        else:
            handler(self, command)

    def take(self, verb: str) -> list[Command]:
        """The accepted commands of a verb, whose work begins now; the caller gives them to `finish`."""
        waiting, self._waiting[verb] = self._waiting[verb], []
        return waiting

    def finish(
        self, commands: Sequence[Command], state: CommandState = "done", reason: str = "", result: Mapping[str, Any] | None = None
    ) -> None:
        """What these commands asked for has happened, or can't any more. May be called from any thread."""
        for command in commands:
            self._answer(command, state, reason, **(result or {}))

    def abandon(self, reason: str) -> None:
        """The training is over: refuse what still waits."""
        for verb in self._waiting:
            self.finish(self.take(verb), "refused", reason)

    def stats(self) -> ControlStats:
        """Counts so far."""
        return ControlStats(
            accepted=self._accepted, refused=self._refused, waiting=sum(map(len, self._waiting.values())), paused=self.paused
        )

    def _accept(self, command: Command) -> None:
        self._accepted += 1
        self._answer(command, "accepted")

    def _refuse(self, command: Command, reason: str) -> None:
        self._refused += 1
        self._answer(command, "refused", reason)

    def _stop(self, command: Command) -> None:
        self._accept(command)
        self.stopping = command.reason or f"{command.verb} was asked for by {command.requested_by or 'a command'}"
        self.paused = False
        self._waiting["stop"].append(command)
        self._steering.stop(self.stopping)

    def _save(self, command: Command) -> None:
        self._accept(command)
        self._waiting["save"].append(command)
        self._steering.save()

    def _evaluate(self, command: Command) -> None:
        if not self._steering.evaluate():
            self._refuse(command, "there is no evaluation data: set eval_file or eval_fraction")
            return
        self._accept(command)
        self._waiting["evaluate"].append(command)

    def _pause(self, command: Command) -> None:
        if self.paused:
            self._refuse(command, "the run is paused already")
            return
        self._accept(command)
        self.paused = True
        self._steering.pause(True)
        self._answer(command, "done")

    def _resume(self, command: Command) -> None:
        if not self.paused:
            self._refuse(command, "the run is not paused")
            return
        self._accept(command)
        self.paused = False
        self._steering.pause(False)
        self._answer(command, "done")

    def _free_caches(self, command: Command) -> None:
        self._accept(command)
        self._answer(command, "done", "", **self._steering.free_caches())

    def _skip(self, command: Command) -> None:
        if not self._skippable:
            self._refuse(command, "this run has one job: there is no next file to skip to")
            return
        self.skipping = True
        self._stop(command)

    def _set(self, command: Command) -> None:
        reason = unsettable(command.arguments, self._steering.intervals())
        if reason:
            self._refuse(command, reason)
            return
        self._accept(command)
        before: dict[str, Any] = {}
        for name, value in command.arguments.items():
            if name == LEARNING_RATE:
                before[name] = self._steering.set_learning_rate(float(value))
            else:
                before[name] = self._steering.set_interval(name, int(value))
        self._answer(command, "done", "", before=before, now=dict(command.arguments))

    _HANDLERS: Mapping[str, Callable[[Control, Command], None]] = {
        "stop": _stop,
        "save": _save,
        "evaluate": _evaluate,
        "pause": _pause,
        "resume": _resume,
        "free_caches": _free_caches,
        "skip": _skip,
        "set": _set,
    }


def unsettable(arguments: Mapping[str, Any], intervals: Sequence[str]) -> str:
    """Why these settings can't be set; empty when they can. All or nothing: none is set when one is wrong."""
    allowed = (LEARNING_RATE, *intervals)
    if not arguments:
        return f"nothing to set; allowed: {', '.join(allowed)}"
    for name, value in arguments.items():
        if name not in allowed:
            return f"{name} can't be set in this training; allowed: {', '.join(allowed)}"
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if name == LEARNING_RATE and not (number and 0 < value < 1):
            return f"learning_rate = {value!r}: allowed is a number above 0 and below 1"
        if name != LEARNING_RATE and not (number and value >= 1 and value == int(value)):
            return f"{name} = {value!r}: allowed is a whole number of at least 1"
    return ""
