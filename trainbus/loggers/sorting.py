"""Sorts what a framework logs in one dictionary into steps, evaluations and other series, by the names that people use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

if TYPE_CHECKING:
    from trainbus.bus.run import Run

EVALUATION = re.compile(r"^(val|valid|validation|eval|evaluation|test|dev)(?:[/_.-](.+))?$")
TRAINING = re.compile(r"^(?:train|training)[/_.-](.+)$")
SHORT = {"lr": "learning_rate", "gradnorm": "grad_norm", "gradient_norm": "grad_norm"}
REPEATED = re.compile(r"_(step|epoch)$")


class Sorted(Struct):
    """``training`` metrics by plain names (``loss``, ``learning_rate``), ``evaluation`` metrics, and the epoch."""

    training: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    epoch: float | None = None


def sort(values: Mapping[str, Any]) -> Sorted:
    """Numbers by what they are of; texts and everything else that is no number are left out.

    ``train_loss``, ``train/loss``, ``train_loss_step`` and ``loss`` are the loss of training; ``val_loss`` and ``eval/loss`` that of an
    evaluation; ``lr`` and Lightning's ``lr-AdamW`` are the learning rate. ``train_loss_epoch`` is a mean and keeps its name.
    """
    found = Sorted()
    for name, value in values.items():
        if not _is_number(value):
            continue
        evaluation, training = EVALUATION.match(name), TRAINING.match(name)
        if name == "epoch":
            found.epoch = float(value)
        elif evaluation is not None:
            found.evaluation[REPEATED.sub("", evaluation[2] or "value")] = value
        elif name.endswith("_epoch"):
            found.training[name] = value
        else:
            plain = (training[1] if training is not None else name).removesuffix("_step") or name
            plain = "learning_rate" if plain.startswith("lr-") and "/" not in plain else plain
            found.training.setdefault(SHORT.get(plain, plain), value)
    return found


def publish(run: Run, values: Mapping[str, Any], step: int) -> None:
    """Publish one dictionary as the step, the evaluation, or both, that it is about."""
    found = sort(values)
    if found.training:
        run.step(step, epoch=found.epoch, **{_keyword(name): value for name, value in found.training.items()})
    if found.evaluation:
        run.eval(step, **{_keyword(name): value for name, value in found.evaluation.items()})


def _keyword(name: str) -> str:
    """A metric must not be taken for a parameter of `Run.step` or `Run.eval`."""
    return f"{name}_" if name in _PARAMETERS else name


_PARAMETERS = frozenset({"self", "step", "total_steps", "epoch", "examples", "tokens", "dataset", "checkpoint", "duration"})


def _is_number(value: Any) -> bool:
    if isinstance(value, bool | str | bytes) or value is None:
        return False
    if isinstance(value, int | float):
        return True
    return hasattr(value, "item") and _elements(value) == 1


def _elements(value: Any) -> int:
    """Of a tensor or an array; a numpy scalar has one."""
    count = getattr(value, "numel", None)
    return int(count()) if callable(count) else int(getattr(value, "size", 1))
