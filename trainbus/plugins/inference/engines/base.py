"""The interface to a server, and what it answers."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from trainbus.plugins.inference.pending import Waiting
from trainbus.plugins.inference.questions import Question


class Answer(Struct, frozen=True):
    """What a server said to one question.

    Args:
        text: None when there is no answer: a text that is only measured, or a question that was refused.
        confidence: Geometric mean of the probabilities of the answer's tokens; for multiple choice the share of the chosen one.
        loss: Mean negative log-likelihood of the expected answer's tokens, in nats.
        tokens: How many these are.
        entropy: How unsure the model was on average at each token that it said, in nats.
        refused: Why the server refused this one question.
    """

    text: str | None = None
    confidence: float | None = None
    loss: float | None = None
    tokens: int | None = None
    refused: str = ""
    entropy: float | None = None


class Likelihood(Struct, frozen=True):
    """Sum of the log-probabilities of a text's tokens, in nats, and how many these are."""

    total: float
    tokens: int


class Engine(Protocol):
    """A server. All of its methods raise `AskError`, and nothing else, for whatever the server does."""

    async def prepare(self, entry: Waiting) -> str:
        """Have the server know a checkpoint; the model name for requests. Doing it again changes nothing."""

    async def release(self, model: str) -> None:
        """The server may forget it."""

    async def answer(self, question: Question, model: str, max_tokens: int) -> Answer:
        """Ask one question."""

    async def likelihood(self, question: Question, continuation: str, model: str) -> Likelihood:
        """How likely ``continuation`` is as the answer."""
