"""A set of questions that is ready to be asked, and what its answers add up to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, to_builtins

from trainbus.errors import ConfigError, DataError
from trainbus.judging.matching import SCORERS
from trainbus.judging.statistics import Comparison, calibration_error, wilson
from trainbus.plugins.inference import questions
from trainbus.plugins.inference.config import ExamSet, InferenceConfig
from trainbus.plugins.inference.engines.base import Answer
from trainbus.plugins.inference.questions import Question
from trainbus.plugins.inference.scorers import MULTIPLE_CHOICE, Scorer, find_scorer


class Scored(Struct, frozen=True):
    """An answer with what each comparison says of it; None: it says nothing. ``correct`` is what the set's scorer says."""

    answer: Answer
    correct: bool | None
    verdicts: dict[str, bool | None]


class Exam:
    """A set with its questions and its scorer."""

    def __init__(self, settings: ExamSet, asked: Sequence[Question], scorer: Scorer) -> None:
        self.settings = settings
        self.name = settings.name
        self.questions = list(asked)
        self._scorer = scorer

    def score(self, question: Question, answer: Answer) -> Scored:
        """Compare an answer in every way. A third party's scorer may raise anything."""
        if answer.text is None:
            return Scored(answer, None, {})
        expected = question.expected
        verdicts: dict[str, bool | None] = {}
        if expected is not None and not question.choices:
            verdicts = {name: compare(answer.text, expected) for name, compare in SCORERS.items()}
        correct = self._scorer(answer.text, expected)
        verdicts[self.settings.scorer] = correct if correct is None else bool(correct)
        return Scored(answer, verdicts[self.settings.scorer], verdicts)


def load_exam(one: ExamSet, config: InferenceConfig) -> Exam:
    """Read a set's file and find its scorer.

    Raises:
        ConfigError, PluginError: The scorer can't work.
        DataError: The file can't be used.
    """
    scorer = find_scorer(one)
    path = Path(one.questions).expanduser()
    asked = questions.load(path, limit=one.limit, columns=one.columns)
    if one.scorer == MULTIPLE_CHOICE and (without := next((question for question in asked if not question.choices), None)):
        raise DataError(
            f"{path}: question {without.id!r} has no choices, and the scorer is {MULTIPLE_CHOICE}.",
            hint='A line looks like {"question": "Which is green?", "choices": ["grass", "snow"], "answer": 0}.',
            file=str(path),
        )
    measured = next((question for question in asked if not question.messages), None)
    needs = "a text that is only measured" if measured else f"scorer {MULTIPLE_CHOICE!r}" if one.scorer == MULTIPLE_CHOICE else ""
    if needs and (config.likelihood == "none" or (measured and config.likelihood == "chat")):
        raise ConfigError(
            f"plugin.inference.likelihood is {config.likelihood!r}, and {path} has {needs}.",
            hint='Set likelihood = "completion" (or "chat" on vLLM, for choices) if the server gives log-probabilities.',
            key="plugin.inference.likelihood",
            found=config.likelihood,
        )
    return Exam(one, asked, scorer)


def metrics_of(exam: Exam, scored: Sequence[Scored]) -> dict[str, float]:
    """Shares of right answers, the interval of the chosen one, and cross-entropy, entropy and calibration error where they are known."""
    metrics: dict[str, float] = {}
    for name in dict.fromkeys((*SCORERS, exam.settings.scorer)):
        verdicts = [verdict for one in scored if (verdict := one.verdicts.get(name)) is not None]
        if verdicts:
            metrics[name] = sum(verdicts) / len(verdicts)
    judged = [one.correct for one in scored if one.correct is not None]
    if judged:
        metrics["accuracy"] = sum(judged) / len(judged)
        metrics["accuracy_low"], metrics["accuracy_high"] = wilson(sum(judged), len(judged))
    measured = [(one.answer.loss, one.answer.tokens) for one in scored if one.answer.loss is not None and one.answer.tokens]
    if measured:
        metrics["cross_entropy"] = sum(loss * tokens for loss, tokens in measured) / sum(tokens for _, tokens in measured)
    if unsure := [one.answer.entropy for one in scored if one.answer.entropy is not None]:
        metrics["answer_entropy"] = sum(unsure) / len(unsure)
    sure = [(one.answer.confidence, one.correct) for one in scored if one.answer.confidence is not None and one.correct is not None]
    if not math.isnan(error := calibration_error(sure)):
        metrics["ece"] = error
    return metrics


def verdicts_of(exam: Exam, scored: Iterable[Scored]) -> dict[str, bool]:
    """What the scorer said, by example."""
    pairs = zip(exam.questions, scored, strict=True)
    return {question.id: one.correct for question, one in pairs if one.correct is not None}


def evidence_of(scored: Sequence[Scored], against: str, comparison: Comparison | None) -> dict[str, Any]:
    """What stands behind the metrics: counts, and the comparison with the checkpoint ``against``."""
    judged = [one.correct for one in scored if one.correct is not None]
    evidence: dict[str, Any] = {"judged": len(judged), "correct": sum(judged)}
    if refused := sum(bool(one.answer.refused) for one in scored):
        evidence["refused"] = refused
    if comparison is not None:
        evidence["compared"] = {"checkpoint": against} | to_builtins(comparison)
    return evidence
