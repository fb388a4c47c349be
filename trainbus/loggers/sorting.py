"""Sorts what a framework logs in one dictionary into the step's metrics and those of an evaluation, by the names that people use.

By the names that `trainbus.sources.names` knows from recorded logs, but values may be tensors on a device, which nobody waits for here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from trainbus.sources.names import is_evaluation, of_row

if TYPE_CHECKING:
    from trainbus.bus.run import Run

OURS = frozenset({"step", "total_steps", "epoch", "examples", "tokens", "dataset", "checkpoint", "duration"})
"""Names that `Run.step` and `Run.eval` give a meaning of their own: what a framework logs under them gets a ``_``."""


class Sorted(Struct):
    """``training`` and ``evaluation`` metrics by plain names (``loss``, ``learning_rate``), and the epoch."""

    training: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    epoch: float | None = None


def sort(values: Mapping[str, Any]) -> Sorted:
    """Numbers by what they are of; everything else is left out.

    ``train_loss``, ``train/loss``, ``train_loss_step`` and ``loss`` are the loss of training; ``val_loss`` and ``eval/loss`` that of an
    evaluation; ``lr`` and ``lr-AdamW`` are the learning rate. ``train_loss_epoch`` is a mean over an epoch and keeps its name.
    """
    found, plain = Sorted(), dict[str, Any]()
    for name, value in values.items():
        if not _is_number(value):
            continue
        if is_evaluation(name):
            plain.setdefault(name.removesuffix("_epoch"), value)
        elif name.endswith("_epoch"):
            found.training[_free(name)] = value
        else:
            plain.setdefault(name.removesuffix("_step"), value)
    for name, column in of_row(tuple(plain)).items():
        if column.role == "epoch":
            found.epoch = float(plain[name])
        elif column.role == "eval":
            found.evaluation.setdefault(_free(column.name), plain[name])
        else:
            found.training.setdefault(_free(column.name if column.role == "train" else name), plain[name])
    return found


def publish(run: Run, values: Mapping[str, Any], step: int) -> None:
    """Publish one dictionary as the step, the evaluation, or both, that it is about."""
    found = sort(values)
    if found.training:
        run.step(step, epoch=found.epoch, **found.training)
    if found.evaluation:
        run.eval(step, **found.evaluation)


def _free(name: str) -> str:
    return f"{name}_" if name in OURS else name


def _is_number(value: Any) -> bool:
    """Python's, numpy's, or a tensor with one element."""
    if isinstance(value, int | float):
        return not isinstance(value, bool)
    count = getattr(value, "numel", None)
    elements = count() if callable(count) else getattr(value, "size", 0)
    return hasattr(value, "item") and bool(elements == 1)
