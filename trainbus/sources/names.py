"""What the columns of somebody's log mean: which is the step, which the loss, what belongs to an evaluation.

Everybody names them differently: ``loss``, ``train/loss``, ``lm loss``, ``happy-sun-7 - train/loss``. A file's names are looked at
together: of several that could be the training loss the most usual one is, and the others stay metrics of their own names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from msgspec import Struct

STEPS: Final = (
    "step", "global_step", "train/global_step", "trainer/global_step", "current_steps", "current_step", "train/step", "iteration", "iter",
    "iterations", "iters", "it", "n_iter", "num_updates", "update", "updates", "optimizer_step", "_step",
)  # fmt: skip
EPOCHS: Final = ("epoch", "train/epoch")
TIMES: Final = ("time", "timestamp", "_timestamp", "wall_time", "datetime", "ts")
MARKS: Final = ("type", "split", "mode", "phase", "stage", "kind", "event", "set", "prefix")
"""Columns with a word that tells a row of an evaluation from one of training."""
EVALUATION: Final = frozenset({"eval", "val", "valid", "validation", "test", "dev", "evaluation", "evaluate"})
TARGETS: Final = {
    "loss": re.compile(
        r"loss|train(ing)?[_/]loss(_step)?|loss[_/](train|step)|((train|loss|losses)[_/])?(lm|total|ce|nll|mlm|cross_?entropy|avg|batch|tr|step|epoch|"
        r"running|language_model)_?loss(_avg)?|train[_/](cross_?entropy|ce|nll)|losses?[_/]total|train[_/]loss_epoch"
    ),
    "learning_rate": re.compile(r"(train[_/]|optim(izer)?[_/]|actor[_/]|trainer[_/])?(learning_?rate|lr)([_/].*)?"),
    "grad_norm": re.compile(r"(train[_/]|optim(izer)?[_/]|actor[_/])?(total_)?(grad(ient)?s?_?norm|gnorm)([_/](total|global))?"),
}
"""What the rules look for, and names for it; of several the plainest is taken: the shortest, then the first."""
WITHIN: Final = re.compile(r"(?:eval|evaluation|val|valid|validation|test|dev)[_/](.+)")
AT_END: Final = re.compile(r"(.+)[_/](?:eval|val|valid|validation|test|dev)")
RANGE: Final = ("__min", "__max")
"""Weights & Biases exports a band beside each curve."""


class Column(Struct, frozen=True):
    """What a column is. ``role``: step, epoch, time, train, eval, mark, or empty for what is left out."""

    role: str
    name: str = ""


def plain(name: str) -> str:
    """A name as it is compared: small letters, words joined by ``_``, parts by ``/``, without the run's name in front."""
    name = name.strip().strip("\"'").lower().rpartition(" - ")[2]
    return re.sub(r"[\s\-]+", "_", name.replace(".", "/").replace(":", "/")).strip("/")


def is_evaluation(name: str) -> bool:
    """Whether a name is of an evaluation."""
    short = plain(name)
    return bool(WITHIN.fullmatch(short) or AT_END.fullmatch(short))


def meanings(names: Iterable[str], chosen: Mapping[str, str] | None = None) -> dict[str, Column]:
    """What the columns of one file are.

    Args:
        names: All of them, in their order.
        chosen: Column by meaning, where somebody has said it: ``{"loss": "my column"}``.
    """
    told = {column: meaning for meaning, column in (chosen or {}).items()}
    made: dict[str, Column] = {}
    train: dict[str, str] = {}
    evaluation: dict[str, str] = {}
    for name in names:
        short = plain(name)
        if name in told:
            made[name] = _told(told[name])
        elif not short or short.endswith(RANGE):
            made[name] = Column("")
        elif short in STEPS:
            made[name] = Column("step", short)
        elif short in EPOCHS:
            made[name] = Column("epoch", short)
        elif short in TIMES:
            made[name] = Column("time", short)
        elif match := WITHIN.fullmatch(short) or AT_END.fullmatch(short):
            evaluation[name] = match[1]
        else:
            train[name] = short
            if short in MARKS:
                made[name] = Column("mark")
    for role, columns in (("train", train), ("eval", evaluation)):
        taken = {column.name for column in made.values() if column.role == role}
        renamed = {column: target for target, column in _targets(columns, taken).items()}
        for name, short in columns.items():
            if name not in made:
                own = name.strip() if role == "train" else short
                made[name] = Column(role, renamed.get(name, own if short != "acc" else "accuracy"))
    return made


@lru_cache(maxsize=1024)
def of_row(names: tuple[str, ...]) -> Mapping[str, Column]:
    """What the names of one row are, when the rest of its log has not been written yet."""
    return meanings(names)


def _told(meaning: str) -> Column:
    if meaning in ("step", "epoch", "time"):
        return Column(meaning, meaning)
    match = WITHIN.fullmatch(meaning)
    return Column("eval", match[1]) if match else Column("train", meaning)


def _targets(columns: Mapping[str, str], taken: set[str]) -> dict[str, str]:
    """The column of each target."""
    found: dict[str, str] = {}
    for target, pattern in TARGETS.items():
        if target in taken:
            continue
        fit = [name for name, short in columns.items() if pattern.fullmatch(short)]
        if not fit and target == "loss":
            only = [name for name, short in columns.items() if short.endswith("loss")]
            fit = only if len(only) == 1 else []  # of several losses none of which is known, nobody can tell which one is trained
        if fit:
            found[target] = min(fit, key=lambda name: (columns[name] != target, len(columns[name])))
    return found
