"""A checkpoint from Trainer's save to its marker: announced, written, digested in the background, announced as whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainbus.bus.events import Command
from trainbus.trainer_node.checkpoints import Marker, unseal
from trainbus.trainer_node.control import Control
from trainbus.trainer_node.sealing import Sealer

if TYPE_CHECKING:
    from trainbus.bus.run import Run


class Saving:
    """The checkpoints of one training.

    Args:
        run: Where they are announced.
        name: The run's name, for their markers.
        control: Has the commands that asked for them.
    """

    def __init__(self, run: Run, name: str, control: Callable[[], Control]) -> None:
        self._run, self._name, self._control = run, name, control
        self.sealer = Sealer(self._sealed)
        self.complete: list[Marker] = []
        self.saved_at = time.monotonic()
        self.asked: dict[Path, tuple[int, dict[str, float], list[Command]]] = {}

    def begin(self, path: Path, step: int, metrics: dict[str, float]) -> None:
        """Trainer is about to write into ``path``."""
        self.sealer.settle(path)
        unseal(path)
        self.saved_at = time.monotonic()
        self.asked[path] = (step, metrics, self._control().take("save"))
        self._run.checkpoint(path, step=step, state="writing")

    def end(self, path: Path, step: int, *, examples: int, tokens: int, positions: Mapping[str, int] | None) -> None:
        """Everything is written; the digests follow in the background."""
        facts: dict[str, Any] = {} if positions is None else {"positions": positions}
        self.sealer.submit(path, run=self._run.id, name=self._name, step=step, examples=examples, tokens=tokens, **facts)

    def _sealed(self, path: Path, result: Marker | OSError) -> None:
        """In the sealer's thread: the directory is whole, or it will never be."""
        step, metrics, asked = self.asked.pop(path)
        if isinstance(result, OSError):
            self._control().finish(asked, "refused", f"the checkpoint could not be finished: {result}")
            return
        self.complete.append(result)
        self._run.checkpoint(path, step=step, digest=result.digest, state="complete", **metrics)
        self._control().finish(asked, "done", result={"checkpoint": result.id, "path": str(path)})
