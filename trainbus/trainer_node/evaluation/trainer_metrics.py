"""What Trainer measured on an evaluation set, out of the names that it gives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

_SPEEDS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


class Measured(NamedTuple):
    """``prefix`` stands before Trainer's names; ``dataset`` is empty for the only set; ``seconds`` is what it took."""

    prefix: str
    dataset: str
    metrics: dict[str, float]
    seconds: float | None


def measured(metrics: Mapping[str, object]) -> Measured:
    """Trainer names the loss ``eval_loss``, or ``eval_SET_loss`` when there are several sets, and all others alike."""
    prefix = next((name.removesuffix("loss") for name in metrics if name.endswith("loss")), "eval_")
    values = {
        name.removeprefix(prefix): float(value) for name, value in metrics.items() if isinstance(value, int | float) and name != "epoch"
    }
    kept = {name: value for name, value in values.items() if name not in _SPEEDS}
    return Measured(prefix, prefix.removeprefix("eval_").strip("_"), kept, values.get("runtime"))
