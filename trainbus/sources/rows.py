"""Rows of names and numbers, as every log has them in the end, as events: one at a time, as a log that grows gives them.

A row becomes a step event with what was logged in training, an eval event with what an evaluation gave, or both, in this order. Names
are those of transformers' logs; ``train_loss``, ``lr``, ``val_loss`` and their like are understood. Time stands still unless
the row tells it: rules about time stay silent then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from trainbus.bus import events

TRAIN_NAMES = {"train_loss": "loss", "train/loss": "loss", "training_loss": "loss", "lr": "learning_rate", "train/lr": "learning_rate",
               "train/grad_norm": "grad_norm", "gradient_norm": "grad_norm", "train/learning_rate": "learning_rate"}  # fmt: skip
EVAL_PREFIXES = ("eval_", "eval/", "val_", "val/", "valid_", "valid/", "validation_", "validation/", "test_", "test/")
STEP_NAMES = ("step", "global_step", "_step", "iter", "iteration", "train/global_step")
TIME_NAMES = ("time", "timestamp", "_timestamp", "wall_time")
EPOCH_NAMES = ("epoch", "train/epoch")
MAX_STEP = 2**63
"""What msgpack can hold; a larger one (or NaN) is no step."""
NO_METRICS = frozenset((*STEP_NAMES, *TIME_NAMES, *EPOCH_NAMES))


def from_row(row: Mapping[str, Any], run: str, number: int) -> list[events.Step | events.Eval]:
    """One row as a step, an eval, both or nothing; ``number`` is its step when it names none. What is no number is left out."""
    step = step_of(row)
    known = number if step is None else step
    time = nanoseconds(next((row[name] for name in TIME_NAMES if isinstance(row.get(name), int | float)), 0))
    epoch = next((row[name] for name in EPOCH_NAMES if isinstance(row.get(name), float)), None)
    train: dict[str, float] = {}
    evaluation: dict[str, float] = {}
    for name, value in row.items():
        if name in NO_METRICS or not isinstance(value, int | float):
            continue
        prefix = next((prefix for prefix in EVAL_PREFIXES if name.startswith(prefix)), None)
        if prefix is not None:
            evaluation[name.removeprefix(prefix)] = real(value)
        else:
            train[TRAIN_NAMES.get(name, name)] = real(value)
    made: list[events.Step | events.Eval] = []
    if train:
        made.append(events.Step(run=run, step=known, time=time, epoch=epoch, metrics=train))
    if evaluation:
        made.append(events.Eval(run=run, step=known, time=time, metrics=evaluation))
    return made


def nanoseconds(stamp: float) -> int:
    """A time in any unit as ns since the epoch, or since the start; 0 when it is none."""
    value = real(stamp)
    # Seconds are smaller than any stamp in ms or ns of these years.
    scaled = value if value > 1e17 else value * 1e6 if value > 1e11 else value * 1e9
    return int(scaled) if abs(scaled) < MAX_STEP else 0


def real(value: float) -> float:
    """A number as a float: a whole one that is too large for it is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def step_of(row: Mapping[str, Any]) -> int | None:
    """The step that a row names."""
    found = next((row[name] for name in STEP_NAMES if isinstance(row.get(name), int | float)), None)
    return int(found) if found is not None and abs(found) < MAX_STEP else None
