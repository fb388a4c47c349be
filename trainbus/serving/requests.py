"""What is asked of a generator, and what it answers: plain values, no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from msgspec import Struct

Prompt: TypeAlias = str | Sequence[int] | Sequence[Mapping[str, Any]]
"""Text that is taken as it is, token ids, or the messages of a conversation (``role``, ``content``), which go through the chat template."""

DEFAULT_TOKENS = 256
TEMPERATURE_MAX = 2.0
ALTERNATIVES_MAX = 20
"""As OpenAI allows."""


class Options(Struct, frozen=True, kw_only=True):
    """How one answer is made. Without anything it is greedy: the likeliest token each time.

    Args:
        max_tokens: The longest answer. None: `DEFAULT_TOKENS`, or what the model's context leaves.
        temperature: 0 is greedy; up to 2.
        top_p: Only the likeliest tokens that together reach this probability are drawn from.
        top_k: Only so many of the likeliest are drawn from; 0: all.
        repetition_penalty: Above 1, what prompt and answer already hold becomes less likely.
        seed: The same seed draws the same answer. None: another one each time.
        stop: The answer ends before the first of these texts.
        seconds: The answer ends after so long, waiting included, with what there is.
        logprobs: How many alternatives each token is told with; 0: the token alone; None: nothing of that kind.

    Raises:
        ValueError: A value is out of range.
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    seconds: float | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        _between("max_tokens", self.max_tokens, 1, None)
        _between("temperature", self.temperature, 0, TEMPERATURE_MAX)
        _between("top_p", self.top_p, 0, 1)
        _between("top_k", self.top_k, 0, None)
        _between("repetition_penalty", self.repetition_penalty, 0.01, 10)
        _between("seconds", self.seconds, 0, None)
        _between("logprobs", self.logprobs, 0, ALTERNATIVES_MAX)
        if "" in self.stop:
            raise ValueError("stop: an empty text stops nothing")


class Token(Struct, frozen=True):
    """One token and its log-probability, which comes from the model's own distribution, before temperature and penalties.

    ``logprob`` is None for a token with nothing before it. ``top`` holds the likeliest tokens, with their log-probabilities; ``entropy``
    is that of the whole distribution, in nats.
    """

    id: int
    text: str
    logprob: float | None
    top: tuple[tuple[str, float], ...] = ()
    entropy: float | None = None


class Piece(Struct, frozen=True, kw_only=True):
    """A part of an answer. The last one has a ``finish_reason``: ``stop``, ``length``, ``time`` or ``cancelled``.

    ``stop`` names the stop text that ended the answer. The counts are those so far.
    """

    text: str = ""
    tokens: tuple[Token, ...] = ()
    finish_reason: str = ""
    stop: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Completion(Struct, frozen=True, kw_only=True):
    """A whole answer; fields as in `Piece`. ``tokens`` is empty unless ``logprobs`` were asked for."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    stop: str | None = None
    tokens: tuple[Token, ...] = ()


class Score(Struct, frozen=True, kw_only=True):
    """How likely a model finds a given answer.

    ``loss`` is the mean of the negative log-probabilities (nats) of ``tokens`` that have one; 0 when none has.
    """

    loss: float
    prompt_tokens: int
    tokens: tuple[Token, ...]


def joined(pieces: Iterable[Piece]) -> Completion:
    """The pieces of one answer as a whole."""
    text: list[str] = []
    tokens: list[Token] = []
    last = Piece()
    for last in pieces:
        text.append(last.text)
        tokens.extend(last.tokens)
    return Completion(
        text="".join(text),
        finish_reason=last.finish_reason,
        prompt_tokens=last.prompt_tokens,
        completion_tokens=last.completion_tokens,
        stop=last.stop,
        tokens=tuple(tokens),
    )


def _between(name: str, value: float | None, low: float, high: float | None) -> None:
    if value is not None and not (low <= value and (high is None or value <= high)):  # in this form NaN is refused, too
        raise ValueError(f"{name}: {value} is not {f'between {low} and {high}' if high is not None else f'at least {low}'}")
