"""Jobs that take a while: examining a model on a set of questions, and generating many answers. One runs at a time."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct, structs

from trainbus.errors import RefusedError, TrainbusError
from trainbus.judging.matching import FINAL, normalised_match, number_match
from trainbus.serving.requests import Options
from trainbus.serving.residency import Residency, Use

log = logging.getLogger(__name__)

WAITING_MAX = 100
KEPT = 200
"""Jobs that are over are told of, the last ones."""
EXAMPLES_MAX = 10_000
SCORED_AT_ONCE = 16

State: TypeAlias = Literal["queued", "running", "done", "failed", "cancelled"]


class Example(Struct, kw_only=True):
    """A question and what should be answered."""

    prompt: str = ""
    messages: list[dict[str, str]] | None = None
    answer: str

    def asked(self) -> list[dict[str, str]]:
        """As messages."""
        return self.messages or [{"role": "user", "content": self.prompt}]


class EvalRequest(Struct, kw_only=True):
    """``POST /eval/jobs``: ``examples`` come with the request, or ``dataset`` is a JSON Lines file below an allowed folder."""

    model: str = ""
    dataset: str = ""
    examples: Annotated[tuple[Example, ...], Meta(max_length=EXAMPLES_MAX)] = ()
    metrics: tuple[Literal["accuracy", "loss"], ...] = ("accuracy", "loss")
    max_samples: Annotated[int, Meta(ge=1, le=EXAMPLES_MAX)] = 100
    max_tokens: Annotated[int, Meta(ge=1)] = 256
    system: str = ""


class DataRequest(Struct, kw_only=True):
    """``POST /data/jobs``: an answer to each prompt, to make training data of."""

    prompts: Annotated[list[str], Meta(min_length=1, max_length=EXAMPLES_MAX)]
    model: str = ""
    max_tokens: Annotated[int, Meta(ge=1)] = 256
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.7
    top_p: Annotated[float, Meta(ge=0, le=1)] = 0.9
    seed: int | None = None


class Job(Struct, kw_only=True):
    """One of them; times are wall-clock seconds. ``result`` is there when the state is ``done``, ``error`` when ``failed``."""

    id: str
    kind: Literal["eval", "data"]
    model: str
    state: State = "queued"
    created: float
    started: float | None = None
    ended: float | None = None
    done: int = 0
    total: int = 0
    result: dict[str, Any] | None = None
    error: str = ""


class JobStats(Struct, frozen=True, kw_only=True):
    """How many are in each state, of those that are still told of."""

    queued: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0


Work: TypeAlias = Callable[[Job, Use], Awaitable[dict[str, Any]]]


class Jobs:
    """Belongs to one event loop; `run` is its worker.

    Args:
        residency: Loads what is to be examined.
        max_seconds: For one answer.
        at_once: Answers that are asked for together.
    """

    def __init__(self, residency: Residency, max_seconds: float, at_once: int) -> None:
        self._residency = residency
        self._max_seconds = max_seconds
        self._at_once = at_once
        self._jobs: dict[str, tuple[Job, Work]] = {}
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._current: tuple[str, asyncio.Task[dict[str, Any]]] | None = None

    def submit_eval(self, asked: EvalRequest, examples: Sequence[Example]) -> Job:
        """Examine a model; the result has accuracy, correct, total and avg_loss, as far as they were asked for.

        Raises:
            RefusedError: Too many wait.
        """
        chosen = list(examples)[: asked.max_samples]
        return self._submit("eval", asked.model, len(chosen), lambda job, use: self._examine(job, use, asked, chosen))

    def submit_data(self, asked: DataRequest) -> Job:
        """Generate answers; the result has ``samples``.

        Raises:
            RefusedError: Too many wait.
        """
        return self._submit("data", asked.model, len(asked.prompts), lambda job, use: self._generate(job, use, asked))

    def all(self) -> list[Job]:
        """All that are told of, the newest first, without their results."""
        return [structs.replace(job, result=None) for job, _ in reversed(self._jobs.values())]

    def find(self, name: str) -> Job:
        """One of them.

        Raises:
            RefusedError: There is none.
        """
        if name not in self._jobs:
            raise RefusedError(f"There is no job {name!r}.", hint="Finished ones are kept for a while only.", code="unknown")
        return self._jobs[name][0]

    def cancel(self, name: str) -> Job:
        """End it, or take it out of the queue; a job that is over stays as it is."""
        job = self.find(name)
        if job.state == "queued":
            job.state, job.ended = "cancelled", time.time()
        elif self._current is not None and self._current[0] == name:
            self._current[1].cancel()
        return job

    def stats(self) -> JobStats:
        """Counts by state."""
        states = [job.state for job, _ in self._jobs.values()]
        return JobStats(**{state: states.count(state) for state in ("queued", "running", "done", "failed", "cancelled")})

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            job, work = self._jobs[await self._queue.get()]
            if job.state != "queued":
                continue
            job.state, job.started = "running", time.time()
            task = asyncio.create_task(self._work(job, work))
            self._current = (job.id, task)
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:  # the server ends
                task.cancel()
                await asyncio.wait([task])
                raise
            finally:
                self._current = None
                self._close(job, task)

    def _submit(self, kind: Literal["eval", "data"], model: str, total: int, work: Work) -> Job:
        if self.stats().queued >= WAITING_MAX:
            raise RefusedError(f"{WAITING_MAX} jobs are waiting already.", hint="Ask again later.", code="busy")
        job = Job(id=uuid.uuid4().hex, kind=kind, model=model, created=time.time(), total=total)
        self._jobs[job.id] = (job, work)
        over = [name for name, (other, _) in self._jobs.items() if other.ended is not None]
        for name in over[: max(0, len(over) - KEPT)]:
            del self._jobs[name]
        self._queue.put_nowait(job.id)
        return job

    async def _work(self, job: Job, work: Work) -> dict[str, Any]:
        async with self._residency.using(job.model) as use:
            job.model = use.entry.id
            return await work(job, use)

    def _close(self, job: Job, task: asyncio.Task[dict[str, Any]]) -> None:
        job.ended = time.time()
        if task.cancelled():
            job.state = "cancelled"
        elif (error := task.exception()) is None:
            job.state, job.result = "done", task.result()
        else:
            while isinstance(error, BaseExceptionGroup):  # of answers that were asked for together: the first tells
                error = error.exceptions[0]
            job.state = "failed"
            job.error = f"{error.problem} {error.hint}".strip() if isinstance(error, TrainbusError) else f"{type(error).__name__}: {error}"
            log.warning("job %s failed: %s", job.id, job.error)

    async def _examine(self, job: Job, use: Use, asked: EvalRequest, examples: Sequence[Example]) -> dict[str, Any]:
        before = [{"role": "system", "content": asked.system}] if asked.system else []
        prompts = [[*before, *example.asked()] for example in examples]
        result: dict[str, Any] = {"total": len(examples)}
        if "accuracy" in asked.metrics:
            options = Options(max_tokens=asked.max_tokens, seconds=self._max_seconds)
            answers = await self._answers(job, use, prompts, [options] * len(prompts))
            correct = sum(is_correct(answer["text"], example.answer) for answer, example in zip(answers, examples, strict=True))
            result |= {"correct": correct, "accuracy": correct / len(examples) if examples else None}
        if "loss" in asked.metrics:
            losses = []
            pairs = [(prompt, example.answer) for prompt, example in zip(prompts, examples, strict=True)]
            for at in range(0, len(pairs), SCORED_AT_ONCE):
                some = pairs[at : at + SCORED_AT_ONCE]
                losses += [score.loss for score in await asyncio.to_thread(use.generator.score_many, some, adapter=use.adapter)]
            result["avg_loss"] = sum(losses) / len(losses) if losses else None
        return result

    async def _generate(self, job: Job, use: Use, asked: DataRequest) -> dict[str, Any]:
        options = [
            Options(
                max_tokens=asked.max_tokens,
                temperature=asked.temperature,
                top_p=asked.top_p,
                seed=None if asked.seed is None else asked.seed + number,
                seconds=self._max_seconds,
            )
            for number in range(len(asked.prompts))
        ]
        answers = await self._answers(job, use, [[{"role": "user", "content": prompt}] for prompt in asked.prompts], options)
        return {"samples": [{"prompt": prompt, **answer} for prompt, answer in zip(asked.prompts, answers, strict=True)]}

    async def _answers(self, job: Job, use: Use, prompts: Sequence[Any], options: Sequence[Options]) -> list[dict[str, Any]]:
        turns = asyncio.Semaphore(self._at_once)

        async def one(prompt: Any, how: Options) -> dict[str, Any]:
            async with turns:
                answer = await use.generator.answer(prompt, how, adapter=use.adapter)
            job.done += 1
            return {"text": answer.text, "finish_reason": answer.finish_reason}

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(prompt, how)) for prompt, how in zip(prompts, options, strict=True)]
        return [task.result() for task in tasks]


def is_correct(given: str, expected: str) -> bool:
    """The same text but for case, punctuation and spaces; or, where the expected answer ends as GSM8K's do, the same final number."""
    return bool(number_match(given, expected)) if FINAL.search(expected) else normalised_match(given, expected)
