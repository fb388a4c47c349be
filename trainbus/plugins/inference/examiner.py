"""Examines one checkpoint after another in the background, so that the host's loop never waits for a server."""

from __future__ import annotations

import asyncio
import time

from msgspec import Struct

from trainbus.errors import TrainbusError
from trainbus.hookspecs import Context, LeaseRefusedError
from trainbus.judging.statistics import compare
from trainbus.plugins.inference.comparing import Predecessors
from trainbus.plugins.inference.config import InferenceConfig
from trainbus.plugins.inference.engines import Engine, make_engine
from trainbus.plugins.inference.exams import Exam, evidence_of, metrics_of, verdicts_of
from trainbus.plugins.inference.faults import AskError, Fault
from trainbus.plugins.inference.harness_sitting import HarnessSitting, HarnessTask, tasks_of
from trainbus.plugins.inference.http import Line
from trainbus.plugins.inference.journal import published_samples, results
from trainbus.plugins.inference.leasing import leased
from trainbus.plugins.inference.pending import Queue, Waiting
from trainbus.plugins.inference.reporting import Reporter
from trainbus.plugins.inference.sitting import Sitting

AFTER_ERROR = 5.0
"""Seconds until the next try when the broker doesn't answer, or something unforeseen happened."""


class ExaminerStats(Struct, frozen=True):
    """``behind`` is how many checkpoints wait, without the one at work."""

    examined: int
    passed_over: int
    given_up: int
    behind: int
    working_on: str


class Examiner:
    """Works through the queue until it is cancelled."""

    def __init__(self, config: InferenceConfig, exams: list[Exam], key: str, context: Context) -> None:
        self.config = config
        self.exams = exams
        self.tasks = tasks_of(config)
        self.context = context
        self.queue = Queue(context.state)
        self.reporter = Reporter(context)
        self._before = Predecessors(context)
        self._key = key
        self._changed = asyncio.Event()
        self._working_on = ""
        self._on_server = ""
        self._examined = self._passed_over = self._given_up = 0

    def changed(self, run: str, step: int) -> None:
        """The queue has changed: tell how long it is, and go on."""
        self.reporter.behind(run, len(self.queue.waiting(run)), step)
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
            except TrainbusError as error:
                # The broker is away, or refuses. The entry stays in the queue, so nothing is lost by trying later.
                self.context.logger.warning("checkpoint %s waits %g s: %s", entry.id, AFTER_ERROR, error)
                await asyncio.sleep(AFTER_ERROR)
            except Exception as error:
                self.context.logger.exception("checkpoint %s could not be examined; trying again in %g s", entry.id, AFTER_ERROR)
                self._unforeseen(entry, error)
                await asyncio.sleep(AFTER_ERROR)
            finally:
                self._working_on = ""

    async def _work(self, entry: Waiting) -> None:
        # What this plugin has published, also in a process that died, must be in the journal before the journal is asked for it.
        while not await self.context.flush():
            self.context.logger.warning("the journal does not have everything yet that this plugin has published; waiting")
        examined, gone = await results(self.context, entry.run, entry.id, after=entry.offset)
        everything: list[Exam | HarnessTask] = [*self.exams, *self.tasks]
        due = [one for one in everything if entry.datasets is None or one.name in entry.datasets]
        missing = [one for one in due if one.name not in examined]
        if gone or not missing:
            self._pass_over(entry, "it was deleted" if gone else "it was examined before")
            return
        sittings = [await self._sit(one, entry) for one in missing]
        try:
            async with leased(self.context, entry.id, reason="evaluation"):
                await self._examine(entry, sittings)
        except LeaseRefusedError as refusal:
            self._pass_over(entry, f"it is being deleted ({refusal})")

    async def _sit(self, exam: Exam | HarnessTask, entry: Waiting) -> Sitting | HarnessSitting:
        """A sitting that goes on where one before it ended."""
        if isinstance(exam, HarnessTask):
            return HarnessSitting(exam, entry, self.config, self._key)
        published = await published_samples(self.context, entry.run, entry.id, exam.name, after=entry.offset)
        return Sitting(exam, entry, self.config, self.reporter, published)

    async def _examine(self, entry: Waiting, sittings: list[Sitting | HarnessSitting]) -> None:
        """Try until all sets are answered, a newer checkpoint is preferred, or the tries are used up."""
        failures, attempts = 0, entry.attempts
        line = Line(self.config.url, self._key, connections=self.config.concurrency, limit=self.config.max_answer_bytes)
        async with line:
            engine = make_engine(self.config, line)
            while (failure := await self._try(engine, entry, sittings)) is not None:
                failures += 1
                if failure.fault is Fault.AWAY or failure.fault is Fault.TROUBLE:
                    self.reporter.server_lost(entry, failure.problem)
                if failure.fault is not Fault.AWAY:
                    attempts = self.queue.failed(entry.id)
                told = "checkpoint %s, failure %d, try %d of %d: %s"
                self.context.logger.warning(told, entry.id, failures, attempts, self.config.attempts, failure.problem)
                if failure.fault is Fault.REFUSED or attempts >= self.config.attempts:
                    await self._release(engine, entry)
                    self._give_up(entry, failure, attempts, sittings)
                    return
                await self._pause(failures, entry)
                gone = not self.queue.waits(entry.id)
                if gone or self.queue.superseded(entry, self.config.policy):
                    await self._release(engine, entry)
                    self._pass_over(entry, "it was deleted" if gone else "a newer one waits")
                    return
        self._examined += 1
        self._finish(entry)

    async def _try(self, engine: Engine, entry: Waiting, sittings: list[Sitting | HarnessSitting]) -> AskError | None:
        """Bring the checkpoint to the server and ask what is missing; what failed, or None when everything is answered."""
        try:
            model = self._on_server = await engine.prepare(entry)
            for sitting in [sitting for sitting in sittings if not sitting.reported]:
                began = time.monotonic()
                await sitting.ask(engine, model)
                await self._report(sitting, time.monotonic() - began)
        except AskError as failure:
            return failure
        await self._release(engine, entry)
        return None

    async def _release(self, engine: Engine, entry: Waiting) -> None:
        """The server may forget the checkpoint, if it was brought there."""
        model, self._on_server = self._on_server, ""
        try:
            if model:
                await engine.release(model)
        except AskError as failure:
            self.context.logger.warning("checkpoint %s stays on the server: %s", entry.id, failure.problem)

    async def _report(self, sitting: Sitting | HarnessSitting, duration: float) -> None:
        if isinstance(sitting, HarnessSitting):
            self.reporter.harness_result(sitting, duration)
            sitting.reported = True
            return
        entry, exam, scored = sitting.entry, sitting.exam, sitting.scored()
        against, before = await self._before.before(entry, exam.name)
        verdicts = verdicts_of(exam, scored)
        evidence = evidence_of(scored, against, compare(before, verdicts))
        self.reporter.result(entry, exam, metrics_of(exam, scored), evidence, duration)
        self._before.keep(entry, exam.name, verdicts)
        sitting.reported = True

    async def _pause(self, failures: int, entry: Waiting) -> None:
        """Wait longer after each failure; a newer checkpoint that is preferred ends the pause."""
        pause = min(self.config.longest_pause, self.config.pause * 2 ** min(failures - 1, 32))
        try:
            async with asyncio.timeout(pause):
                while not self.queue.superseded(entry, self.config.policy):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return

    def _give_up(self, entry: Waiting, failure: AskError, attempts: int, sittings: list[Sitting | HarnessSitting]) -> None:
        for sitting in sittings:
            sitting.publish_rest()
        answered = sum(sitting.answered for sitting in sittings)
        self.reporter.given_up(entry, failure.problem, attempts, answered, sum(sitting.size for sitting in sittings))
        self._given_up += 1
        self._finish(entry)

    def _unforeseen(self, entry: Waiting, error: Exception) -> None:
        """A fault of ours, or of what we use: it costs a try, so that it can't keep the next checkpoints waiting for ever."""
        attempts = self.queue.failed(entry.id)
        if attempts >= self.config.attempts:
            self.reporter.given_up(entry, f"{type(error).__name__}: {error}.", attempts, 0, 0)
            self._given_up += 1
            self._finish(entry)

    def _pass_over(self, entry: Waiting, reason: str) -> None:
        self.context.logger.info("checkpoint %s is passed over: %s", entry.id, reason)
        self._passed_over += 1
        self._finish(entry)

    def _finish(self, entry: Waiting) -> None:
        self.queue.finish(entry.id)
        self.reporter.behind(entry.run, len(self.queue.waiting(entry.run)), entry.step)
