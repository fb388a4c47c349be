"""One evaluation beyond the loss: the model answers questions, and figures go on from one evaluation to the next."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from trainbus.bus.events import DECODE_ERRORS
from trainbus.bus.home import write_atomically
from trainbus.judging.statistics import calibration_error, confidence_of
from trainbus.trainer_node.evaluation.answering import Answer, Answerer, StuckError
from trainbus.trainer_node.evaluation.matching import matches
from trainbus.trainer_node.evaluation.mistakes import Mistakes
from trainbus.trainer_node.evaluation.questions import Question
from trainbus.trainer_node.evaluation.running import RunningAccuracy, Standing, StreamingLoss
from trainbus.trainer_node.profile import PLAIN, Profile

if TYPE_CHECKING:
    from trainbus.bus.run import Run

FILE = "trainbus_evaluation.json"
"""In a checkpoint: where the running figures stood."""

VALIDATION, TRAINING = "validation", "training"
"""Names of the two sets of questions. Only answers to the first count."""


def read_standing(checkpoint: Path | None) -> Standing:
    """Where the running figures stood in a checkpoint; afresh without one, and where it says nothing."""
    if checkpoint is None:
        return Standing()
    try:
        return msgspec.json.decode((checkpoint / FILE).read_bytes(), type=Standing)
    except (OSError, *DECODE_ERRORS):
        return Standing()


class Examination:
    """Asks at each evaluation the same questions.

    Args:
        answerer: None where nothing can be asked: then only figures of the loss are added.
        asked: Questions of both sets.
        batch: Questions that are asked together.
        seconds: All answers of one evaluation together.
        mistakes: Where wrong answers to questions of the training data go.
        note: Told once what a person should know.
        profile: The form that answers must have; what they hold in it is compared and shown.
    """

    def __init__(
        self,
        run: Run,
        answerer: Answerer | None,
        asked: Sequence[Question],
        *,
        batch: int,
        seconds: float,
        standing: Standing,
        mistakes: Mistakes | None = None,
        note: Callable[[str], None] = lambda _: None,
        profile: Profile = PLAIN,
    ) -> None:
        self._profile = profile
        self._run, self._answerer, self._asked = run, answerer, asked
        self._batch, self._seconds = batch, seconds
        self._standing, self._mistakes, self._note = standing, mistakes, note
        self._accuracy, self._course = RunningAccuracy(standing), StreamingLoss()

    def saw(self, loss: Any) -> None:
        """The loss of one step of the training; may be a tensor on a device."""
        self._course.add(loss)

    def examine(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Ask, publish a sample for each answer, and give the metrics to be added to those that were measured."""
        found = self._course.figures()
        if "loss" in metrics and "train_loss" in found:
            found["loss_gap"] = metrics["loss"] - found["train_loss"]
        answers = self._ask()
        for answer in answers:
            self._publish(step, answer)
        if self._mistakes is not None:
            self._mistakes.save()
        return found | self._judge(step, [answer for answer in answers if answer.question.dataset == VALIDATION]) | self._penalties()

    def enclose(self, checkpoint: Path) -> None:
        """Write where the running figures stand into a checkpoint that is being made."""
        write_atomically(checkpoint / FILE, msgspec.json.format(msgspec.json.encode(self._standing), indent=1), mode=0o644)

    def _ask(self) -> list[Answer]:
        if self._answerer is None or self._answerer.stats().stuck:
            return []
        until = time.monotonic() + self._seconds
        answers: list[Answer] = []
        for start in range(0, len(self._asked), self._batch):
            if time.monotonic() >= until:
                break
            try:
                answers += self._answerer.answer(self._asked[start : start + self._batch])
            except StuckError as error:
                self._note(f"The model did not answer ({error}); training goes on, and it is asked no more questions.")
                break
        return answers

    def _publish(self, step: int, answer: Answer) -> None:
        question = answer.question
        correct, said = self._verdict(answer)
        self._run.sample(
            step,
            prompt=question.prompt,
            expected=question.expected,
            answer=said,
            correct=correct,
            loss=answer.loss,
            example=question.example,
            dataset=question.dataset,
        )
        if self._mistakes is not None and question.dataset == TRAINING and not correct:
            self._mistakes.add(question.example, question.prompt, said, question.expected)

    def _verdict(self, answer: Answer) -> tuple[bool, str]:
        """Whether it is right, and what was said. An answer that lacks the form is wrong: the form belongs to what is learned."""
        said = self._profile.answer_in(answer.text)
        return said is not None and matches(said, answer.question.expected), answer.text if said is None else said

    def _judge(self, step: int, answers: Sequence[Answer]) -> dict[str, float]:
        if not answers:
            return {}
        verdicts = [self._verdict(answer)[0] for answer in answers]
        self._accuracy.add(verdicts)
        confidences = [confidence_of(answer.loss) for answer in answers]
        exact = sum(verdicts) / len(verdicts)
        if exact > self._standing.best:
            self._standing.best, self._standing.best_step = exact, step
        return {
            "exact_match": exact,
            "exact_match_best": self._standing.best,
            "exact_match_best_step": self._standing.best_step,
            "answered": len(answers),
            "answers_cut": sum(not answer.finished for answer in answers),
            "answer_confidence": statistics.fmean(confidences),
            "answer_calibration_error": calibration_error(zip(confidences, verdicts, strict=True)),
            **self._accuracy.figures(),
        }

    def _penalties(self) -> dict[str, float]:
        if self._answerer is None:
            return {}
        told = self._answerer.stats()
        return {
            f"{name}_{what}": value
            for name, stats in (("think_penalty", told.think), ("after_stop_penalty", told.after_stop))
            if stats.hits
            for what, value in msgspec.structs.asdict(stats).items()
        }
