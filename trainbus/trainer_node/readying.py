"""Everything before the first step: data from file to rows, the model from disk to device; commands are answered meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trainbus.trainer_node import model
from trainbus.trainer_node.beforehand import Beforehand
from trainbus.trainer_node.config import TrainerConfig
from trainbus.trainer_node.dataset.packing import require_isolation
from trainbus.trainer_node.dataset.preparing import Dataset, Preparation
from trainbus.trainer_node.observer import Observer
from trainbus.trainer_node.part import Part
from trainbus.trainer_node.plan import Plan
from trainbus.trainer_node.ranks import Ranks

if TYPE_CHECKING:
    from trainbus.bus.run import Run
    from trainbus.trainer_node.evaluation.questions import Question, Rows

REJECTED = "rejected.jsonl"
"""In the output: lines of the data that were left out, with their reasons."""


class Readied(NamedTuple):
    """What a training needs, beside its configuration. ``afresh``: what was shown of the data before does not count."""

    built: model.Built
    training: Dataset
    evaluation: Rows | None
    asked: list[Question]
    rejected: int
    plain: bool
    afresh: bool


class StoppedError(Exception):
    """Somebody has said stop while data were prepared."""


def make_ready(
    config: TrainerConfig,
    plan: Plan,
    part: Part | None,
    run: Run,
    watcher: Observer,
    output: Path,
    root: Path | None,
    ranks: Ranks,
    beforehand: Beforehand,
    *,
    unlock: bool,
) -> Readied:
    """Prepare the data, then load the model: each a phase of the run.

    Raises:
        TrainbusError: Data, model or both can't be used.
        StoppedError: Somebody has said stop meanwhile.
    """
    from trainbus.trainer_node.evaluation.questions import drawn
    from trainbus.trainer_node.evaluation.setup import chosen_questions

    rejected = None if run.rank else Path(part.rejected) if part is not None and part.rejected else output / REJECTED
    tolerant = config.bad_lines == "reject" or (part is not None and config.bad_lines == "auto")
    job = part.job if part is not None else ""
    step = plan.step if part is None or plan.positions.get(job) else None
    batch = 0 if part is not None else config.batch_size * config.gradient_accumulation * ranks.size
    with ranks.first():  # the others find what it has downloaded and tokenised
        with phase(run, watcher, "load_data"):
            preparation = Preparation(config, model.load_tokenizer(config), tolerant=tolerant, root=root, note=watcher.note)
        with phase(run, watcher, "tokenize") as told:

            def progress(fraction: float) -> None:
                told.progress(fraction)
                watcher.progress(fraction)
                if beforehand.stopping and ranks.size == 1:
                    raise StoppedError

            unlocked = unlock or (part is not None and part.unlock)
            data = preparation.run(output, rejected, job=job, step=step, unlock=unlocked, batch=batch, progress=progress)
    measured = drawn(data.evaluation, config.eval_limit, config.seed) if data.evaluation is not None else None
    asked = chosen_questions(config, preparation.tokenizer, data.chosen, measured) if measured is not None else []
    if beforehand.stopping and ranks.size == 1:
        raise StoppedError
    with phase(run, watcher, "load_model"):
        built = model.build(config)
        if config.packing:
            require_isolation(built.model, config.batch_size)
    share = built.trainable / max(1, built.total)
    watcher.note(f"{len(data.training):,} examples; {built.trainable:,} of {built.total:,} parameters are trained ({share:.1%})")
    return Readied(built, data.training, measured, asked, data.rejected, data.plain, data.afresh)


@contextmanager
def phase(run: Run, watcher: Observer, name: str) -> Iterator[Any]:
    """A phase of the run, and of whoever watches."""
    watcher.phase(name)
    with run.phase(name) as begun:
        yield begun
