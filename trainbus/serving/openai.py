"""OpenAI's requests and answers, with the fields that vLLM has added where we have the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from trainbus.errors import RefusedError
from trainbus.serving.requests import ALTERNATIVES_MAX, Completion, Options, Piece, Prompt, Score, Token

CHOICES_MAX = 16
STOPS_MAX = 16

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Stops = str | Annotated[list[str], Meta(max_length=STOPS_MAX)] | None
Alternatives = Annotated[int, Meta(ge=0, le=ALTERNATIVES_MAX)]


class Part(Struct):
    """A part of a message's content; only text can be answered."""

    type: str
    text: str = ""


class Message(Struct):
    """One message of a conversation."""

    role: str
    content: str | list[Part] | None = None

    def plain(self) -> dict[str, str]:
        """Role and text.

        Raises:
            RefusedError: It has a picture or a sound.
        """
        if isinstance(self.content, list):
            if other := [part.type for part in self.content if part.type != "text"]:
                raise RefusedError(
                    f"A message has a part of type {other[0]!r}; only text can be answered.", code="invalid", param="messages"
                )
            return {"role": self.role, "content": "".join(part.text for part in self.content)}
        return {"role": self.role, "content": self.content or ""}


class StreamOptions(Struct):
    """``include_usage``: counts come in a last chunk."""

    include_usage: bool = False


class Asked(Struct, kw_only=True):
    """What both forms share. Without a temperature the answer is greedy. Fields that are not named here are passed over.

    ``timeout`` (seconds), ``top_k`` and ``repetition_penalty`` are not OpenAI's.
    """

    model: str = ""
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=-1)] = 0
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=10)] = 1.0
    seed: int | None = None
    stop: Stops = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=CHOICES_MAX)] | None = None
    timeout: Annotated[float, Meta(gt=0)] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    tools: list[Any] | None = None
    response_format: dict[str, Any] | None = None

    def check(self) -> None:
        """Refuse what would be answered in another way than it was asked for.

        Raises:
            RefusedError: With the field in ``facts["param"]``.
        """
        form = (self.response_format or {}).get("type", "text")
        for name, wanted in (
            ("frequency_penalty", self.frequency_penalty),
            ("presence_penalty", self.presence_penalty),
            ("logit_bias", self.logit_bias),
            ("tools", self.tools),
            ("response_format", None if form == "text" else form),
        ):
            if wanted:
                raise RefusedError(f"`{name}` is not supported.", hint="Leave it out.", code="invalid", param=name)

    def options(self, max_tokens: int | None, logprobs: int | None, max_seconds: float, choice: int = 0) -> Options:
        """How the answer is made; the seed of each choice is its own."""
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Options(
            max_tokens=max_tokens,
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(0, self.top_k),
            repetition_penalty=self.repetition_penalty,
            seed=None if self.seed is None else self.seed + choice,
            stop=tuple(stop for stop in stops if stop),
            seconds=min(self.timeout or max_seconds, max_seconds),
            logprobs=logprobs,
        )


class ChatRequest(Asked, kw_only=True):
    """``/v1/chat/completions``.

    ``prompt_logprobs`` is vLLM's: the log-probabilities of the conversation's own tokens. With ``add_generation_prompt`` false nothing
    opens an answer, so that an answer given as the last message is measured.
    """

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None
    prompt_logprobs: Alternatives | None = None
    add_generation_prompt: bool = True

    def conversation(self) -> list[dict[str, str]]:
        """Roles and texts."""
        return [message.plain() for message in self.messages]

    def alternatives(self) -> int | None:
        """As `Options.logprobs`."""
        return (self.top_logprobs or 0) if self.logprobs else None


class TextRequest(Asked, kw_only=True):
    """``/v1/completions``: texts or token ids; ``echo`` gives the prompt back, with its log-probabilities where these are asked for."""

    prompt: str | list[str | int | list[int]]
    max_tokens: Annotated[int, Meta(ge=0, le=1_000_000)] | None = 16
    logprobs: Alternatives | None = None
    echo: bool = False

    def prompts(self) -> list[str | list[int]]:
        """Each of them.

        Raises:
            RefusedError: Numbers stand beside texts or lists.
        """
        if isinstance(self.prompt, str):
            return [self.prompt]
        numbers = [one for one in self.prompt if isinstance(one, int)]
        others = [one for one in self.prompt if not isinstance(one, int)]
        if numbers and others:
            raise RefusedError("`prompt` mixes tokens with texts.", hint="Give texts, or lists of tokens.", code="invalid", param="prompt")
        return [numbers] if numbers else others


class GenerateRequest(Struct, kw_only=True):
    """``/generate``: one prompt, put to the model as a user's message unless ``raw``."""

    prompt: str
    model: str = ""
    max_tokens: Count = 256
    temperature: Temperature = 0.7
    top_p: Share = 0.9
    seed: int | None = None
    stop: Stops = None
    raw: bool = False

    def asked(self) -> Prompt:
        """The prompt in its form."""
        return self.prompt if self.raw else [{"role": "user", "content": self.prompt}]


def finish(piece: Piece | Completion) -> dict[str, Any]:
    """OpenAI knows ``stop`` and ``length`` alone; what else it was stands in ``stop_reason``, as the stop text does."""
    known = piece.finish_reason in ("", "stop", "length")
    return {
        "finish_reason": (piece.finish_reason or None) if known else "length",
        "stop_reason": piece.stop if known else piece.finish_reason,
    }


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Counts."""
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": prompt_tokens + completion_tokens}


def chat_logprobs(tokens: Sequence[Token]) -> dict[str, Any]:
    """The form of chats; ``entropy`` is ours."""

    def told(text: str, logprob: float | None) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}

    return {
        "content": [
            told(one.text, one.logprob) | {"top_logprobs": [told(*other) for other in one.top], "entropy": one.entropy} for one in tokens
        ]
    }


def text_logprobs(tokens: Sequence[Token], offset: int = 0) -> dict[str, Any]:
    """The older form, of completions; ``offset`` is where the first token begins."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [dict(token.top) if token.logprob is not None else None for token in tokens],
        "text_offset": offsets,
    }


def prompt_logprobs(score: Score) -> list[dict[str, Any] | None]:
    """vLLM's form: for each token of the prompt, by its id; nothing for the first."""
    return [
        None if one.logprob is None else {str(one.id): {"logprob": one.logprob, "rank": None, "decoded_token": one.text}}
        for one in score.tokens
    ]


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"
