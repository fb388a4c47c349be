"""Answers of the model in training: greedy, in batches, and never longer than they may take.

Three limits hold: tokens, a deadline that is looked at after each token, and a thread that is left behind when even one forward pass does
not come back. Imports transformers: load only where training runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from msgspec import Struct
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from trainbus.trainer_node.evaluation.figures import losses, measure
from trainbus.trainer_node.evaluation.penalties import AfterStopPenalty, PenaltyStats, Ramp, TagPenalty
from trainbus.trainer_node.evaluation.questions import Question
from trainbus.trainer_node.evaluation.timebox import StuckError, Timebox
from trainbus.trainer_node.tokens import Collator

GRACE_SECONDS = 20.0
"""After the deadline one forward pass may still be under way: so long it is waited for before the thread is given up."""

THINK_TAGS = ("<think>", "</think>")


class Limits(Struct, frozen=True, kw_only=True):
    """``tokens`` of one answer, ``seconds`` of one batch of answers."""

    tokens: int = 256
    seconds: float = 30.0


class Shaping(Struct, frozen=True, kw_only=True):
    """Penalties while generating; 0 and empty turn them off. ``ramp``: tokens in which the think penalty rises from 0 to its amount."""

    think_penalty: float = 0.0
    ramp: int = 0
    stops: tuple[str, ...] = ()
    after_stop_penalty: float = 0.0
    end_reward: float = 0.0


class Answer(Struct, frozen=True, kw_only=True):
    """One answer. ``loss`` is that of the expected answer to the same question; ``finished``: it ended by itself."""

    question: Question
    text: str
    loss: float
    finished: bool


class AnswererStats(Struct, frozen=True, kw_only=True):
    """Answers so far, those that were cut by a limit, and what the penalties did. ``stuck``: generation was given up for good."""

    answers: int
    cut: int
    stuck: bool
    think: PenaltyStats
    after_stop: PenaltyStats


class Deadline(StoppingCriteria):
    """Ends a generation when its time is up, or when the training has to go on."""

    def __init__(self, at: float, hurry: Callable[[], bool]) -> None:
        self._at = at
        self._hurry = hurry

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """For each row whether it is over."""
        over = time.monotonic() >= self._at or self._hurry()
        return torch.full((input_ids.shape[0],), over, dtype=torch.bool, device=input_ids.device)


class Answerer:
    """Asks one model.

    Args:
        model: Not wrapped for several processes. It is in evaluation mode when `answer` is called.
        hurry: Whether the training has to go on at once (it was asked to stop).
        precision: Gives the context in which the training computes.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        limits: Limits,
        shaping: Shaping = Shaping(),  # noqa: B008 - frozen
        *,
        hurry: Callable[[], bool] = lambda: False,
        precision: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._limits, self._shaping = limits, shaping
        self._hurry, self._precision = hurry, precision
        self._timebox = Timebox()
        self._collate = Collator(tokenizer.pad_token_id)
        self._ends = _ends(model, tokenizer)
        self._tags = [_ids(tokenizer, tag) for tag in THINK_TAGS] if shaping.think_penalty else []
        self._stops = [_ids(tokenizer, stop) for stop in shaping.stops]
        self._answers = self._cut = 0
        self._think = self._after_stop = PenaltyStats()

    def answer(self, asked: Sequence[Question]) -> list[Answer]:
        """The answers to one batch of questions.

        Raises:
            StuckError: The model did not come back; it won't be asked again.
        """
        device = self._model.device
        seconds = self._limits.seconds

        def call() -> list[Answer]:
            if device.type == "cuda":
                torch.cuda.set_device(device)  # a thread has a device of its own
            with torch.no_grad(), self._precision():
                expected = self._losses([question.row for question in asked], device)
                generated = self._generate([question.prompt_ids for question in asked], device, time.monotonic() + seconds)
            return [
                Answer(question=question, text=text, loss=loss, finished=finished)
                for question, loss, (text, finished) in zip(asked, expected, generated, strict=True)
            ]

        answers = self._timebox.run(call, seconds + GRACE_SECONDS)
        self._answers += len(answers)
        self._cut += sum(not answer.finished for answer in answers)
        return answers

    def stats(self) -> AnswererStats:
        """Counts so far."""
        return AnswererStats(
            answers=self._answers, cut=self._cut, stuck=self._timebox.stuck, think=self._think, after_stop=self._after_stop
        )

    def _losses(self, rows: Sequence[dict[str, list[int]]], device: Any) -> list[float]:
        batch = {name: tensor.to(device) for name, tensor in self._collate(rows).items()}
        labels = batch.pop("labels")
        return losses(measure(self._model(**batch).logits, labels).cpu())

    def _generate(self, prompts: Sequence[list[int]], device: Any, deadline: float) -> list[tuple[str, bool]]:
        width = max(map(len, prompts))
        pad = self._tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
        processors = self._processors(width)
        found = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=GenerationConfig(
                do_sample=False, num_beams=1, use_cache=True, max_new_tokens=self._limits.tokens, pad_token_id=pad, eos_token_id=self._ends
            ),
            logits_processor=LogitsProcessorList(list(processors.values())),
            stopping_criteria=StoppingCriteriaList([Deadline(deadline, self._hurry)]),
        )
        self._count(processors)
        return [self._read(row) for row in found[:, width:].tolist()]

    def _processors(self, width: int) -> dict[str, TagPenalty | AfterStopPenalty]:
        shaping = self._shaping
        found: dict[str, TagPenalty | AfterStopPenalty] = {}
        if self._tags:
            amount = Ramp(first=0.0 if shaping.ramp else shaping.think_penalty, last=shaping.think_penalty, over=shaping.ramp)
            found["think"] = TagPenalty(self._tags, amount, width)
        if self._stops and (shaping.after_stop_penalty or shaping.end_reward):
            found["after_stop"] = AfterStopPenalty(self._stops, self._ends, shaping.after_stop_penalty, shaping.end_reward, width)
        return found

    def _count(self, processors: dict[str, Any]) -> None:
        if "think" in processors:
            self._think = _sum(self._think, processors["think"].stats())
        if "after_stop" in processors:
            self._after_stop = _sum(self._after_stop, processors["after_stop"].stats())

    def _read(self, ids: list[int]) -> tuple[str, bool]:
        """The text before the end or the first stop, and whether there was one of them."""
        end = next((place for place, token in enumerate(ids) if token in self._ends), None)
        text = str(self._tokenizer.decode(ids[:end], skip_special_tokens=True))
        finished = end is not None
        for stop in self._shaping.stops:
            before, found, _ = text.partition(stop)
            text, finished = before, finished or bool(found)
        return text.strip(), finished


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """What the model's own settings and its tokenizer end an answer with."""
    told = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    known = {*(told if isinstance(told, list) else [told]), tokenizer.eos_token_id} - {None}
    return sorted(known)


def _sum(one: PenaltyStats, other: PenaltyStats) -> PenaltyStats:
    return PenaltyStats(hits=one.hits + other.hits, turned=one.turned + other.turned)


__all__ = ["Answer", "Answerer", "Limits", "Shaping", "StuckError"]
