"""The thread that holds a model: it generates, scores and changes adapters; requests join and leave at any token. Imports torch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import torch
from msgspec import Struct

from trainbus.errors import ModelError, RefusedError, TrainbusError
from trainbus.serving.adapters import BASE, Adapters
from trainbus.serving.batch import Batch
from trainbus.serving.loading import reason
from trainbus.serving.scoring import likelihoods, told
from trainbus.serving.work import Row, Scoring, take

T = TypeVar("T")

MAX_BATCH = 16
MAX_WAITING = 1_024
"""Requests in the line; more are refused."""
CACHED_TOKENS = 131_072
"""Places in the key-value cache that answers under way may take together; a single one may take more."""
PATIENCE_SECONDS = 2.0
"""So long, others with the adapter that is selected may come in before one that wants another."""
CLOSING_SECONDS = 60.0
"""A forward pass of a large prompt on a slow machine ends within this."""


class Limits(Struct, frozen=True, kw_only=True):
    """Of one generator.

    Args:
        max_batch: So many answers are made at once.
        max_waiting: So many requests may wait.
        cached_tokens: Places of the key-value cache that are given out at once.
        threads: Threads of the CPU; None: as torch decides.
    """

    max_batch: int = MAX_BATCH
    max_waiting: int = MAX_WAITING
    cached_tokens: int = CACHED_TOKENS
    threads: int | None = None


class GeneratorStats(Struct, frozen=True, kw_only=True):
    """Counts since the beginning; ``waiting`` and ``active`` are those of now. ``passes`` are forward passes that made tokens."""

    requests: int
    finished: int
    failed: int
    scored: int
    prompt_tokens: int
    generated_tokens: int
    passes: int
    largest_batch: int
    waiting: int
    active: int
    adapters: tuple[str, ...]


class Engine:
    """Its methods may be called from any thread; the model is touched by its own thread alone.

    Args:
        model: A causal language model of transformers, in evaluation mode.
        limits: See `Limits`.
    """

    def __init__(self, model: Any, limits: Limits) -> None:
        self._model = model
        self._limits = limits
        self._adapters = Adapters(model)
        self._batch = Batch(model)
        self.max_batch = limits.max_batch if self._batch.plain else 1
        self._rows: list[Row] = []
        self._waiting: list[Row | Scoring] = []
        self._tasks: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._counts = dict.fromkeys(
            ("requests", "finished", "failed", "scored", "prompt_tokens", "generated_tokens", "passes", "largest_batch"), 0
        )
        self._thread = threading.Thread(target=self._run, name="trainbus-generate", daemon=True)
        self._thread.start()

    def enter(self, one: Row | Scoring) -> None:
        """Put a request into the line.

        Raises:
            RefusedError: ``facts["code"]`` is ``busy`` or ``closed``.
        """
        with self._changed:
            if self._closed:
                raise closed()
            if len(self._waiting) >= self._limits.max_waiting:
                raise RefusedError(
                    f"{len(self._waiting)} requests are waiting already.", hint="Ask again later, or ask less at once.", code="busy"
                )
            self._counts["requests"] += 1
            self._waiting.append(one)
            self._changed.notify_all()

    def change(self, function: Callable[[Adapters], T]) -> T:
        """Do something to the adapters, on the model's thread, between two tokens; blocks until it is done.

        Raises:
            RefusedError: With the code ``closed``; and what the function raises.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise closed()
            self._tasks.append((lambda: function(self._adapters), future))
            self._changed.notify_all()
        return future.result()

    def uses(self, adapter: str) -> bool:
        """Whether requests under way or in the line want this adapter. Certain only within `change`."""
        with self._changed:
            return any(one.adapter == adapter for one in (*self._rows, *self._waiting))

    def stats(self) -> GeneratorStats:
        """Counts so far."""
        return GeneratorStats(**self._counts, waiting=len(self._waiting), active=len(self._rows), adapters=self._adapters.names)

    def close(self) -> None:
        """End the thread; who still waits gets a `RefusedError` with the code ``closed``. Again does nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(CLOSING_SECONDS)

    def _run(self) -> None:
        if self._limits.threads is not None:
            torch.set_num_threads(self._limits.threads)
        with torch.inference_mode():
            while self._await_work():
                self._do_tasks()
                self._cut()
                self._admit()
                if self._rows:
                    self._guarded(self._rows, self._step)
        self._end()

    def _await_work(self) -> bool:
        with self._changed:
            while not (self._closed or self._tasks or self._waiting or self._rows):
                self._changed.wait()
            return not self._closed

    def _do_tasks(self) -> None:
        with self._changed:
            tasks, self._tasks = self._tasks, []
        for function, future in tasks:
            try:
                future.set_result(function())
            except Exception as error:  # noqa: BLE001 - it belongs to the caller, who gets it
                future.set_exception(error)

    def _cut(self) -> None:
        """Those under way and in the line that nobody wants any more, or whose time is over, end."""
        now = time.monotonic()
        staying = [number for number, row in enumerate(self._rows) if not self._is_cut(row, now)]
        if len(staying) < len(self._rows):
            self._batch.keep(staying)
            self._rows = [self._rows[number] for number in staying]
        with self._changed:
            self._waiting = [one for one in self._waiting if isinstance(one, Scoring) or not self._is_cut(one, now)]

    def _is_cut(self, row: Row, now: float) -> bool:
        cut = row.cut(now)
        self._counts["finished"] += cut
        return cut

    def _admit(self) -> None:
        adapter = self._rows[0].adapter if self._rows else BASE
        free = self.max_batch - len(self._rows) if self._batch.room else 0
        cost = self._limits.cached_tokens - sum(row.cost for row in self._rows)
        with self._changed:
            chosen = take(self._waiting, adapter, free, cost, empty=not self._rows, patience=PATIENCE_SECONDS, now=time.monotonic())
        if not chosen:
            return
        scorings = [one for one in chosen if isinstance(one, Scoring)]
        rows = [one for one in chosen if isinstance(one, Row)]
        try:
            self._adapters.select(chosen[0].adapter)
        except RefusedError as error:  # it was unloaded between the asking and now
            self._fail(chosen, error)
            return
        if scorings:
            self._guarded(scorings, lambda: self._score(scorings))
        if rows:
            self._guarded([*self._rows, *rows], lambda: self._join(rows))

    def _score(self, scorings: Sequence[Scoring]) -> None:
        found = list(likelihoods(self._model, [item for one in scorings for item in one.items], self.max_batch))
        for one in scorings:
            one.done(found[: len(one.items)])
            found = found[len(one.items) :]
            self._counts["scored"] += len(one.items)
            self._counts["finished"] += 1

    def _join(self, rows: list[Row]) -> None:
        logits = self._batch.join([row.prompt for row in rows])
        before = len(self._rows)
        self._rows = [*self._rows, *rows]
        self._counts["prompt_tokens"] += sum(len(row.prompt) for row in rows)
        self._counts["largest_batch"] = max(self._counts["largest_batch"], len(self._rows))
        self._settle(before, logits)

    def _step(self) -> None:
        self._settle(0, self._batch.step([row.last for row in self._rows]))

    def _settle(self, first: int, logits: torch.Tensor) -> None:
        """Give the rows from ``first`` on their next tokens; those that are done leave."""
        self._counts["passes"] += 1
        likeliest = logits.argmax(-1).tolist()
        staying = list(range(first))
        for number, row in enumerate(self._rows[first:]):
            token = likeliest[number] if row.sampler.greedy else row.sampler.pick(logits[number])
            likelihood = None if row.alternatives is None else told(logits[number : number + 1], [token], row.alternatives)[0]
            self._counts["generated_tokens"] += 1
            if row.take(token, likelihood):
                self._counts["finished"] += 1
            else:
                staying.append(first + number)
        self._batch.keep(staying)
        self._rows = [self._rows[number] for number in staying]

    def _guarded(self, concerned: Sequence[Row | Scoring], work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - a model's failure is told to those whom it concerns; the others go on
            problem = ModelError(
                f"The model failed: {reason(error)}", hint="Out of memory? Then ask for less at once, or for shorter answers."
            )
            self._fail(concerned, problem)
            if any(isinstance(one, Row) for one in concerned):
                self._batch.keep([])
                self._rows = []

    def _fail(self, concerned: Sequence[Row | Scoring], error: TrainbusError) -> None:
        for one in concerned:
            self._counts["failed"] += 1
            one.fail(error)

    def _end(self) -> None:
        with self._changed:
            left: list[Row | Scoring] = [*self._rows, *self._waiting]
            tasks, self._tasks = self._tasks, []
            self._rows, self._waiting = [], []
        self._fail(left, closed())
        for _, future in tasks:
            future.set_exception(closed())


def closed() -> RefusedError:
    """What those get who ask a model that is going."""
    return RefusedError("The model is being unloaded.", hint="Ask again when one is loaded.", code="closed")
