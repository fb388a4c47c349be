"""Examines one checkpoint after another in the background, so that the host's loop never waits for a server."""

from __future__ import annotations

import asyncio
import time

from msgspec import Struct

from trainbus.hookspecs import Context, LeaseRefusedError
from trainbus.plugins.inference.asking import Asker, AskError, Fault
from trainbus.plugins.inference.config import InferenceConfig, model_name
from trainbus.plugins.inference.leasing import leased
from trainbus.plugins.inference.pending import Queue, Waiting, verdict
from trainbus.plugins.inference.questions import Question
from trainbus.plugins.inference.reporting import Reporter
from trainbus.plugins.inference.scoring import score

AFTER_ERROR = 5.0
"""Seconds until the next try when something unforeseen happened, such as a broker that doesn't answer."""


class ExaminerStats(Struct, frozen=True):
    """``behind`` is how many checkpoints wait, without the one at work."""

    examined: int
    passed_over: int
    given_up: int
    behind: int
    working_on: str


class Examiner:
    """Works through the queue until it is cancelled.

    Args:
        dataset: The set's name in events.
    """

    def __init__(self, config: InferenceConfig, questions: list[Question], dataset: str, key: str, context: Context) -> None:
        self.config = config
        self.questions = questions
        self.dataset = dataset
        self.context = context
        self.queue = Queue(context.state)
        self.reporter = Reporter(context, dataset)
        self._key = key
        self._changed = asyncio.Event()
        self._working_on = ""
        self._examined = self._passed_over = self._given_up = 0

    def wake(self) -> None:
        """The queue has changed."""
        self._changed.set()

    def stats(self) -> ExaminerStats:
        """How far it is."""
        behind = len([entry for entry in self.queue.waiting() if entry.id != self._working_on])
        return ExaminerStats(self._examined, self._passed_over, self._given_up, behind, self._working_on)

    async def run(self) -> None:
        """Examine whatever waits, for ever."""
        while True:
            self._changed.clear()
            entry, passed = self.queue.next(self.config.policy)
            for older in passed:
                self._pass_over(older, "a newer one waits")
            if entry is None:
                await self._changed.wait()
                continue
            self._working_on = entry.id
            try:
                await self._work(entry)
            except Exception:
                # The broker may be away. The entry stays in the queue, so nothing is lost by trying later.
                self.context.logger.exception("checkpoint %s could not be examined; trying again in %g s", entry.id, AFTER_ERROR)
                await asyncio.sleep(AFTER_ERROR)
            finally:
                self._working_on = ""

    async def _work(self, entry: Waiting) -> None:
        since = [event async for event in self.context.aquery(kinds=["eval", "checkpoint"], runs=[entry.run], after=entry.offset)]
        if reason := verdict(entry, self.dataset, since):
            self._pass_over(entry, reason)
            return
        try:
            async with leased(self.context, entry.id, reason="evaluation"):
                await self._examine(entry)
        except LeaseRefusedError as refusal:
            self._pass_over(entry, f"it is being deleted ({refusal})")

    async def _examine(self, entry: Waiting) -> None:
        """Try until all questions are answered, a newer checkpoint is preferred, or the tries are used up."""
        answers: dict[str, str] = {}
        began, attempt = time.monotonic(), 0
        async with Asker(self.config, self._key) as asker:
            while (failure := await self._ask_missing(asker, entry, answers)) is not None:
                attempt += 1
                if failure.fault is Fault.UNREACHABLE:
                    self.reporter.server_lost(entry, failure.problem)
                self.context.logger.warning("checkpoint %s, try %d of %d: %s", entry.id, attempt, self.config.attempts, failure.problem)
                if failure.fault is Fault.REFUSED or attempt >= self.config.attempts:
                    self._give_up(entry, failure, attempt, len(answers))
                    return
                await self._pause(attempt, entry)
                if self.queue.superseded(entry, self.config.policy):
                    self._pass_over(entry, "a newer one waits")
                    return
        self._report(entry, answers, time.monotonic() - began)

    async def _ask_missing(self, asker: Asker, entry: Waiting, answers: dict[str, str]) -> AskError | None:
        """Ask what has no answer yet, several at a time; the first failure ends it and is returned."""
        model = model_name(self.config, entry.checkpoint())
        missing = iter([question for question in self.questions if question.id not in answers])
        failures: list[AskError] = []

        async def work() -> None:
            for question in missing:
                if failures:
                    return
                try:
                    answers[question.id] = await asker.ask(question, model)
                except AskError as error:
                    failures.append(error)
                    return
                self.reporter.server_back(entry)

        async with asyncio.TaskGroup() as group:
            for _ in range(self.config.concurrency):
                group.create_task(work())
        return failures[0] if failures else None

    async def _pause(self, attempt: int, entry: Waiting) -> None:
        """Wait longer after each failure; a newer checkpoint that is preferred ends the pause."""
        pause = min(self.config.longest_pause, self.config.pause * 2 ** (attempt - 1))
        try:
            async with asyncio.timeout(pause):
                while not self.queue.superseded(entry, self.config.policy):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return

    def _report(self, entry: Waiting, answers: dict[str, str], duration: float) -> None:
        scores = [score(answers[question.id], question.expected) for question in self.questions]
        self.reporter.results(entry, self.questions, answers, scores, self.config.scorer, duration)
        self.queue.finish(entry.id)
        self._examined += 1

    def _give_up(self, entry: Waiting, failure: AskError, attempts: int, answered: int) -> None:
        self.reporter.given_up(entry, failure.problem, attempts, answered, len(self.questions))
        self.queue.finish(entry.id)
        self._given_up += 1

    def _pass_over(self, entry: Waiting, reason: str) -> None:
        self._passed_over += 1
        self.queue.finish(entry.id)
        self.context.logger.info("checkpoint %s is passed over: %s", entry.id, reason)
