"""From a configuration to an `Examination`. Imports transformers: load only where training runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainbus.trainer_node.config import TrainerConfig
from trainbus.trainer_node.evaluation.answering import Answerer, Limits, Shaping
from trainbus.trainer_node.evaluation.examination import TRAINING, VALIDATION, Examination, read_standing
from trainbus.trainer_node.evaluation.mistakes import Mistakes
from trainbus.trainer_node.evaluation.questions import Question, Rows, drawn, questions

if TYPE_CHECKING:
    from trainbus.bus.run import Run

MISTAKES = "mistakes.jsonl"
"""In the output: what the model got wrong of its training data, as a file to train on."""


def chosen_questions(config: TrainerConfig, tokenizer: Any, training: Rows, evaluation: Rows) -> list[Question]:
    """What is asked at each evaluation: of the examples that are measured with, and of those that are trained on."""

    def of(rows: Rows, source: str, dataset: str, limit: int) -> list[Question]:
        some = drawn(rows, 2 * limit, config.seed)  # some may have no question
        return questions(some, tokenizer, config.max_length, source=Path(source).name, dataset=dataset, limit=limit, profile=config.profile)

    asked = of(evaluation, config.eval_file or config.data, VALIDATION, config.eval_samples)
    return asked + of(training, config.data, TRAINING, config.eval_train_samples)


def make_examination(
    config: TrainerConfig,
    trainer: Any,
    run: Run,
    asked: Sequence[Question],
    *,
    output: Path,
    checkpoint: Path | None,
    hurry: Callable[[], bool],
    note: Callable[[str], None],
) -> Examination:
    """The examination of one job; ``trainer`` is its transformers Trainer."""
    shaping = Shaping(
        think_penalty=config.eval_think_penalty,
        ramp=config.eval_think_ramp,
        stops=tuple(config.eval_stops),
        after_stop_penalty=config.eval_after_stop_penalty,
        end_reward=config.eval_end_reward,
    )
    answerer = Answerer(
        trainer.model,
        trainer.processing_class,
        Limits(tokens=config.eval_tokens, seconds=config.eval_answer_seconds),
        shaping,
        hurry=hurry,
        precision=trainer.accelerator.autocast,
    )
    measured = {question.example for question in asked if question.dataset == VALIDATION}
    return Examination(
        run,
        answerer if asked and config.parallel != "fsdp" else None,  # shared weights answer only when all processes ask at once
        asked,
        batch=config.batch_size,
        seconds=config.eval_seconds,
        standing=read_standing(checkpoint),
        mistakes=Mistakes(output / MISTAKES, measured) if config.eval_train_samples else None,
        note=note,
        profile=config.profile,
    )
