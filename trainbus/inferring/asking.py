"""What asking a model is, wherever it runs: messages and sampling in, pieces of text and an answer out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from msgspec import Struct, structs

Prompt: TypeAlias = str | Sequence[Mapping[str, str]]
"""A conversation, ``{"role": ..., "content": ...}`` each and the oldest first, which goes through the model's chat template; or text that
is continued as it stands."""

OnPiece: TypeAlias = Callable[[str], None]
"""Called with each piece of text as it comes."""

MAX_TEMPERATURE = 2.0
"""What servers of the OpenAI form allow; above it text is noise."""
MAX_TOKENS = 65_536
DEFAULT_TOKENS = 256


class Sampling(Struct, frozen=True, kw_only=True):
    """How an answer is drawn. None leaves it to the model's own settings; temperature 0 is greedy: the same answer each time.

    Args:
        max_tokens: The longest answer. None: `DEFAULT_TOKENS`; on this machine what the context leaves, where that is less.
        top_k: Only the k likeliest tokens count.
        top_p: Only the likeliest tokens count whose probabilities make up this share.
        repetition_penalty: Above 1, what was said already becomes less likely.
        stop: The answer ends before any of these.
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def clamped(self) -> Sampling:
        """The nearest values that models understand."""
        return structs.replace(
            self,
            max_tokens=None if self.max_tokens is None else min(max(self.max_tokens, 1), MAX_TOKENS),
            temperature=min(max(self.temperature, 0.0), MAX_TEMPERATURE),
            top_k=None if self.top_k is None else max(self.top_k, 1),
            top_p=None if self.top_p is None else min(max(self.top_p, 1e-4), 1.0),
            repetition_penalty=None if self.repetition_penalty is None else min(max(self.repetition_penalty, 0.1), 10.0),
        )


class Answer(Struct, frozen=True, kw_only=True):
    """What a model said.

    Args:
        finish_reason: ``stop``: it came to its end; ``length``: ``max_tokens`` cut it; empty: nobody said.
        prompt_tokens: None where nobody counted.
        seconds: From the question to the end of the answer; ``first_seconds`` to its first piece.
    """

    text: str
    finish_reason: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0
    first_seconds: float | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """How fast it was written; None where nobody counted."""
        return self.completion_tokens / self.seconds if self.completion_tokens and self.seconds > 0 else None


def ignore(piece: str) -> None:
    """For who wants only the whole answer."""


class Asked(Protocol):
    """A model that can be asked. Interrupting `ask` (Ctrl-C) ends the generation where it runs; the model can be asked again.

    ``name`` is what people call it, ``checkpoint`` the id of the checkpoint that it is; empty where it is none that the bus knows. A run
    that was resumed may save a step again: then the name is the same, and the id another.
    """

    name: str
    checkpoint: str

    def ask(self, prompt: Prompt, sampling: Sampling, on_piece: OnPiece = ignore) -> Answer:
        """One answer, piece by piece as it is written.

        Raises:
            TrainbusError: There is none; it says why.
        """

    def ask_all(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """Answers to many questions, each with its number, in the order in which they are ready.

        Raises:
            TrainbusError: One could not be answered.
        """


def request_body(model: str, prompt: Prompt, sampling: Sampling, *, stream: bool, counted: bool = False) -> dict[str, Any]:
    """A completion's request. What is not set is not named: servers refuse fields that they don't know.

    Args:
        stream: Piece by piece.
        counted: With the numbers of tokens behind the last piece, which not every server knows.
    """
    asked: dict[str, Any] = {"prompt": prompt} if isinstance(prompt, str) else {"messages": [dict(message) for message in prompt]}
    given: dict[str, Any] = {"model": model, **asked, "stream": stream}
    given |= {"max_tokens": sampling.max_tokens or DEFAULT_TOKENS, "temperature": sampling.temperature}
    for name in ("top_k", "top_p", "repetition_penalty", "seed"):
        if (value := getattr(sampling, name)) is not None:
            given[name] = value
    if counted:
        given["stream_options"] = {"include_usage": True}
    return given | ({"stop": list(sampling.stop)} if sampling.stop else {})
