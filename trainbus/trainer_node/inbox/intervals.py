"""Intervals that somebody has set while a run trains: they hold until the run ends, also for the next trainer that goes on with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from trainbus.trainer_node.config import TrainerConfig
from trainbus.trainer_node.inbox.queue import INTERVALS, Flag, Queue

SETTABLE = ("save_steps", "eval_steps", "logging_steps")
"""Named by the command ``set``. The learning rate is no interval: the checkpoints hold its schedule."""


class Intervals:
    """Those of one run.

    Args:
        queue: Keeps them.
        run: The run's id; what was set for another run holds no more.
    """

    def __init__(self, queue: Queue, run: str) -> None:
        self._queue, self._run = queue, run

    def known(self) -> dict[str, int]:
        """What was set."""
        flag = self._queue.flag(INTERVALS)
        return dict(flag.settings) if flag is not None and flag.run == self._run else {}

    def keep(self, said: Flag, values: Mapping[str, Any]) -> dict[str, int]:
        """Remember what was set just now, and by whom; gives the intervals among it."""
        found = {name: int(value) for name, value in values.items() if name in SETTABLE}
        if found:
            self._queue.set_flag(INTERVALS, structs.replace(said, settings=self.known() | found, run=self._run))
        return found

    def applied(self, config: TrainerConfig) -> TrainerConfig:
        """The configuration with what was set."""
        return structs.replace(config, **self.known())

    def words(self) -> str:
        """For people; empty when nothing was set."""
        told = ", ".join(f"{name} = {value}" for name, value in self.known().items())
        return f"{told}: set for this run by `trainbus control set`, which also changes it" if told else ""
