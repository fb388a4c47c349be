"""One job of generating: ask, pick, compare, until there are enough or it leads nowhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from msgspec import Struct, field, structs

from trainbus.errors import TrainbusError, UnreachableError
from trainbus.inferring.asking import Answer, Asked, Sampling
from trainbus.inferring.generating.harvest import Picked, conversation_of, reasons, rows_of
from trainbus.inferring.generating.known import ITSELF, Known
from trainbus.inferring.generating.recipe import Asking, Recipe, Seed, askings
from trainbus.trainer_node.formats import Format

ROUND_PROMPTS = 16
"""Prompts that are asked before it is counted again how many examples are missing."""
FRUITLESS_ROUNDS = 3
"""So many rounds in a row without one new example: more of the same won't help."""
PAUSES_SECONDS = (1.0, 5.0, 25.0)
"""Before a server that can't be reached is asked again."""


class New(Struct, frozen=True):
    """An accepted example: its row, and the lines of the seeds that its prompt showed."""

    row: dict[str, Any]
    seeds: tuple[int, ...]


class Outcome(Struct, kw_only=True):
    """What came of it.

    Args:
        accepted: The new examples.
        prompts: How often the model was asked.
        faults: Reason → how many were no examples; ``repeated``: where they were already → how many.
        rejected: What was no example, with its reason.
        stopped: Why it ended before there were enough; empty when there are.
    """

    accepted: list[New] = field(default_factory=list)
    prompts: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    repeated: dict[str, int] = field(default_factory=dict)
    rejected: list[Picked] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    stopped: str = ""


class Job:
    """Asks for ``count`` examples.

    Args:
        model: Who writes them.
        recipe: How it is asked; it was checked.
        seeds: What it begins from, all in the format ``wanted``.
        known: What there is already, the seeds included; what is accepted is added.
        sampling: How answers are drawn. With a seed each round has another one of its own, or it would repeat the last.
        pause: Sleeps so many seconds.
    """

    def __init__(
        self,
        model: Asked,
        recipe: Recipe,
        seeds: Sequence[Seed],
        wanted: Format,
        known: Known,
        sampling: Sampling,
        *,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._model = model
        self._recipe = recipe
        self._seeds = seeds
        self._wanted = wanted
        self._known = known
        self._sampling = sampling
        self._pause = pause
        self._drawn = Random(recipe.seed)

    def run(self, count: int, on_accepted: Callable[[int], None] = lambda _: None) -> Outcome:
        """Work until there are ``count`` new examples. ``on_accepted`` is called with how many came.

        Raises:
            TrainbusError: The model can't be asked, and nothing was accepted before. So it is with an interruption.
        """
        begun, outcome = time.monotonic(), Outcome()
        rounds = fruitless = 0
        while len(outcome.accepted) < count and not outcome.stopped:
            had = len(outcome.accepted)
            try:
                for asking, answer in self._round(count - had, rounds):
                    self._pick(asking, answer, outcome, count, on_accepted)
            except TrainbusError as error:
                if not outcome.accepted:
                    raise
                outcome.stopped = error.problem
            except KeyboardInterrupt:
                if not outcome.accepted:
                    raise
                outcome.stopped = "it was interrupted"
            rounds += 1
            fruitless = 0 if len(outcome.accepted) > had else fruitless + 1
            if fruitless == FRUITLESS_ROUNDS:
                outcome.stopped = f"{fruitless} rounds in a row brought nothing new"
        outcome.faults = reasons(outcome.rejected)
        outcome.seconds = time.monotonic() - begun
        return outcome

    def _round(self, missing: int, number: int) -> Iterator[tuple[Asking, Answer]]:
        each = self._recipe.each if self._recipe.take == "examples" else 1
        asked = askings(self._recipe, self._seeds, min(math.ceil(missing / each), ROUND_PROMPTS), self._drawn)
        seed = None if self._sampling.seed is None else self._sampling.seed + number
        sampling = structs.replace(self._sampling, seed=seed)
        waiting = dict(enumerate(asked))
        for pause in (*PAUSES_SECONDS, None):
            places = list(waiting)
            try:
                for place, answer in self._model.ask_all([waiting[place].prompt for place in places], sampling):
                    yield waiting.pop(places[place]), answer
            except UnreachableError:
                if pause is None:
                    raise
                self._pause(pause)
            else:
                return

    def _pick(self, asking: Asking, answer: Answer, outcome: Outcome, count: int, on_accepted: Callable[[int], None]) -> None:
        outcome.prompts += 1
        outcome.prompt_tokens += answer.prompt_tokens or 0
        outcome.completion_tokens += answer.completion_tokens or 0
        for picked in rows_of(answer, self._wanted) if self._recipe.take == "examples" else [conversation_of(asking, answer)]:
            if picked.fault:
                outcome.rejected.append(picked)
            elif len(outcome.accepted) < count:
                if where := self._known.add(picked.example, ITSELF):
                    outcome.repeated[where] = outcome.repeated.get(where, 0) + 1
                else:
                    outcome.accepted.append(New(picked.row, tuple(seed.line for seed in asking.seeds)))
                    on_accepted(1)
