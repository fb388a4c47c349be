"""One set asked of one checkpoint: which questions still need an answer, and what is published when."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable

import msgspec

from trainbus.bus import events
from trainbus.plugins.inference.config import InferenceConfig
from trainbus.plugins.inference.engines import Answer, Engine, Likelihood
from trainbus.plugins.inference.exams import Exam, Scored
from trainbus.plugins.inference.faults import AskError, Fault
from trainbus.plugins.inference.pending import Waiting
from trainbus.plugins.inference.questions import Question
from trainbus.plugins.inference.reporting import Reporter

REFUSED_AT_START = 3
"""Questions that a server may refuse before it has answered any: then it is the checkpoint that it refuses."""


class Sitting:
    """Answers of one checkpoint to one set.

    Each answer is published as a sample at once, in the order of the set: what the journal has, a restart needs not ask again.

    Args:
        published: Samples of this checkpoint and set that the journal has.

    Attributes:
        reported: The result was published.
    """

    def __init__(self, exam: Exam, entry: Waiting, config: InferenceConfig, reporter: Reporter, published: Iterable[events.Sample]) -> None:
        self.exam = exam
        self.entry = entry
        self.config = config
        self.reported = False
        self._reporter = reporter
        self._scored: dict[str, Scored] = {}
        self._next = 0
        known = {question.id: question for question in exam.questions}
        for sample in published:
            if question := known.get(sample.example):
                self._scored[question.id] = self._score(question, _answer_of(sample))
        self._published = set(self._scored)

    @property
    def name(self) -> str:
        """The set's name in events."""
        return self.exam.name

    @property
    def size(self) -> int:
        """Questions in all."""
        return len(self.exam.questions)

    @property
    def answered(self) -> int:
        """Questions that have an answer."""
        return len(self._scored)

    def scored(self) -> list[Scored]:
        """What came out, in the order of the set. Only when `ask` has returned."""
        return [self._scored[question.id] for question in self.exam.questions]

    async def ask(self, engine: Engine, model: str) -> None:
        """Ask what has no answer yet, several questions at a time.

        Raises:
            AskError: The first failure. Answers that came are kept.
        """
        missing = iter([question for question in self.exam.questions if question.id not in self._scored])
        failures: list[AskError] = []

        async def work() -> None:
            for question in missing:
                if failures:
                    return
                try:
                    self._take(question, await self._ask(engine, question, model))
                except AskError as error:
                    failures.append(error)

        async with asyncio.TaskGroup() as group:
            for _ in range(self.config.concurrency):
                group.create_task(work())
        if failures:
            raise failures[0]

    def publish_rest(self) -> None:
        """Publish also answers that came before an earlier question's, when that one will have none."""
        for question in self.exam.questions:
            if question.id in self._scored:
                self._publish(question)

    async def _ask(self, engine: Engine, question: Question, model: str) -> Answer:
        try:
            if question.choices and self.exam.settings.scorer == "multiple_choice":
                return await _choose(engine, question, model)
            answer = Answer()
            if question.messages:
                answer = await engine.answer(question, model, self.exam.settings.max_tokens)
            if self.config.likelihood == "none" or not question.expected:
                return answer
            likely = await engine.likelihood(question, question.expected, model)
            return msgspec.structs.replace(answer, loss=-likely.total / likely.tokens, tokens=likely.tokens)
        except AskError as error:
            if error.fault is not Fault.QUESTION:
                raise
            self._refused(error)
            return Answer(refused=error.problem)

    def _refused(self, error: AskError) -> None:
        """One refused question is left out; when the first few are all refused, the checkpoint is."""
        others = [scored for scored in self._scored.values() if scored.answer.refused]
        if len(others) == len(self._scored) and len(others) + 1 >= min(REFUSED_AT_START, len(self.exam.questions)):
            raise AskError(Fault.REFUSED, error.problem, status=error.status, reason=error.reason)

    def _take(self, question: Question, answer: Answer) -> None:
        self._reporter.server_back(self.entry)
        self._scored[question.id] = self._score(question, answer)
        while self._next < len(self.exam.questions) and self.exam.questions[self._next].id in self._scored:
            self._publish(self.exam.questions[self._next])
            self._next += 1

    def _publish(self, question: Question) -> None:
        if question.id not in self._published:
            self._published.add(question.id)
            self._reporter.sample(self.entry, self.exam, question, self._scored[question.id])

    def _score(self, question: Question, answer: Answer) -> Scored:
        try:
            return self.exam.score(question, answer)
        except Exception as error:  # noqa: BLE001 - a third party's scorer: its fault costs a verdict, not the answer
            self._reporter.scorer_failed(self.exam.settings.scorer, question, error)
            return Scored(answer, None, {})


async def _choose(engine: Engine, question: Question, model: str) -> Answer:
    """The choice whose whole text is likeliest."""
    likely: dict[str, Likelihood] = {}
    for choice in question.choices:
        likely[choice] = await engine.likelihood(question, choice, model)
    best = max(question.choices, key=lambda choice: likely[choice].total)
    shares = sum(math.exp(told.total - likely[best].total) for told in likely.values())
    right = likely[question.expected] if question.expected else None
    return Answer(
        text=best,
        confidence=1 / shares,
        loss=None if right is None else -right.total / right.tokens,
        tokens=None if right is None else right.tokens,
    )


def _answer_of(sample: events.Sample) -> Answer:
    """An answer as its sample event tells it."""
    tokens = sample.metrics.get("tokens")
    return Answer(
        text=sample.answer,
        confidence=sample.metrics.get("confidence"),
        loss=sample.loss,
        tokens=None if tokens is None else int(tokens),
        refused="refused before a restart" if "refused" in sample.metrics else "",
        entropy=sample.metrics.get("answer_entropy"),
    )
