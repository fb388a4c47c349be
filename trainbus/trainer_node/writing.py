"""Around Trainer's own writing of a checkpoint: nothing ruined is written, and a full disk is waited for instead of failing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from trainbus.trainer_node.ranks import Ranks
from trainbus.trainer_node.room import Room, is_disk_full
from trainbus.trainer_node.saving import Saving


class Training(Protocol):
    """The training, as far as its checkpoints go."""

    def ruined(self) -> bool:
        """Whether the weights must not be saved."""

    def has_room(self) -> bool:
        """Wait until a checkpoint has room on its disk; False when the training is to end first, without this save."""

    def phase(self, name: str) -> AbstractContextManager[None]:
        """A phase of the run."""

    def before_save(self, path: Path, step: int) -> None:
        """Trainer is about to write."""

    def after_save(self, path: Path, step: int) -> None:
        """Trainer has written everything."""


class Writing:
    """What stands in place of ``_save_checkpoint``."""

    def __init__(self, trainer: Any, ranks: Ranks, room: Room | None, saving: Saving, training: Training) -> None:
        self._trainer, self._ranks, self._room, self._saving, self._training = trainer, ranks, room, saving, training

    def save(self, original: Callable[..., Any], model: Any, trial: Any, *args: Any, **kwargs: Any) -> Any:
        """Let Trainer write, in all processes or in none; the first one announces it and has it finished."""
        training = self._training
        if self._ranks.any(training.ruined()):
            return None
        if self._ranks.any(self._ranks.rank == 0 and not training.has_room()):
            return None
        if self._ranks.rank:
            result = original(model, trial, *args, **kwargs)
            self._ranks.wait()
            return result
        step = self._trainer.state.global_step
        path = Path(self._trainer._get_output_dir(trial=trial)).absolute() / f"checkpoint-{step}"
        training.before_save(path, step)
        while True:
            try:
                with training.phase("save"):
                    result = original(model, trial, *args, **kwargs)
                    self._ranks.wait()  # every process writes files into it
                break
            except Exception as error:
                if self._room is None or self._ranks.size > 1 or not is_disk_full(error):  # several can't begin it again by themselves
                    raise
                self._room.failed(path)
                if not training.has_room():
                    self._saving.give_up(path, "the disk is full")
                    return None
        if self._room is not None:
            self._room.saved()
        training.after_save(path, step)
        return result
