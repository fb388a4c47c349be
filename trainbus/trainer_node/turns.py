"""What rank 0 was told to turn, so that all other processes turn it, too."""

from __future__ import annotations

from typing import Any

import msgspec

from trainbus.trainer_node.steering import TrainerSteering


class Turns(msgspec.Struct, kw_only=True):
    """Calls of a steering, each a method's name and its arguments, and whether the run is paused after them."""

    calls: list[tuple[str, list[Any]]] = []
    paused: bool = False


class Recorder(TrainerSteering):
    """A steering that also writes down what it was told."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(trainer)
        self._calls: list[tuple[str, list[Any]]] = []

    def take(self) -> list[tuple[str, list[Any]]]:
        """What it was told since the last time."""
        calls, self._calls = self._calls, []
        return calls

    def stop(self, reason: str) -> None:
        """As `TrainerSteering`."""
        self._calls.append(("stop", [reason]))
        super().stop(reason)

    def save(self) -> None:
        """As `TrainerSteering`."""
        self._calls.append(("save", []))
        super().save()

    def evaluate(self) -> bool:
        """As `TrainerSteering`."""
        self._calls.append(("evaluate", []))
        return super().evaluate()

    def free_caches(self) -> dict[str, int]:
        """As `TrainerSteering`; the answer is that of this process."""
        self._calls.append(("free_caches", []))
        return super().free_caches()

    def set_learning_rate(self, value: float) -> float:
        """As `TrainerSteering`."""
        self._calls.append(("set_learning_rate", [value]))
        return super().set_learning_rate(value)

    def set_interval(self, name: str, value: int) -> int:
        """As `TrainerSteering`."""
        self._calls.append(("set_interval", [name, value]))
        return super().set_interval(name, value)
