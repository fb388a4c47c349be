"""Whether a training is ruined: a loss or gradient norm that is no finite number. Imports torch: load only where training runs."""

from __future__ import annotations

from typing import Any

import torch


class Doubt:
    """Remembers on the device whether a value was not finite; nobody waits for it before `ruined` is asked."""

    def __init__(self) -> None:
        self._bad: Any = None
        self._loss: Any = None
        self._norm: Any = None
        self.failure = ""
        """Why the training has failed; empty while it hasn't."""

    def note(self, loss: Any, norm: Any) -> None:
        """The values of one step."""
        self._loss, self._norm = loss, norm
        for value in (loss, norm):
            if isinstance(value, torch.Tensor):
                bad = ~torch.isfinite(value)
                self._bad = bad if self._bad is None else self._bad | bad

    @property
    def cheap(self) -> bool:
        """Whether `ruined` has no device to wait for."""
        return self._loss is not None and self._loss.device.type == "cpu"

    def ruined(self, step: int) -> bool:
        """Whether a value was not finite. Waits for the device, so it is asked only where Trainer waits too."""
        if not self.failure and self._bad is not None and bool(self._bad):
            values = f"loss {float(self._loss)}, gradient norm {float(self._norm)}"
            self.failure = f"{values} at step {step}: the weights are ruined, and nothing is saved"
        return bool(self.failure)
