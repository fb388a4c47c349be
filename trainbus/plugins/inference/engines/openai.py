"""Any OpenAI-compatible server that has the model already, or that takes its path as a name."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import msgspec

from trainbus.judging.statistics import least_entropy
from trainbus.plugins.inference.config import InferenceConfig
from trainbus.plugins.inference.engines.base import Answer, Likelihood
from trainbus.plugins.inference.faults import AskError, Fault
from trainbus.plugins.inference.http import Line, decoded
from trainbus.plugins.inference.pending import Waiting
from trainbus.plugins.inference.questions import Question
from trainbus.plugins.inference.travel import mapped, model_name

NOT_FOUND = 404


ALTERNATIVES = 20
"""Tokens beside each that servers tell at most, OpenAI's and vLLM's."""


class Alternative(msgspec.Struct):
    """A token that might have been said."""

    logprob: float


class Token(msgspec.Struct):
    """A token of an answer. ``entropy`` is that of the whole distribution, as `trainbus serve` tells it."""

    logprob: float
    top_logprobs: list[Alternative] | None = None
    entropy: float | None = None


class Logprobs(msgspec.Struct):
    """Log-probabilities of an answer's tokens."""

    content: list[Token] | None = None


class Message(msgspec.Struct):
    """The part of a completion's message that counts."""

    content: str | None = None


class Choice(msgspec.Struct):
    """One of a completion's choices."""

    message: Message
    logprobs: Logprobs | None = None


class Usage(msgspec.Struct):
    """How long the prompt was."""

    prompt_tokens: int


class Completion(msgspec.Struct):
    """The part of ``/chat/completions``' answer that counts; other fields are skipped.

    ``prompt_logprobs`` is vLLM's: for each token of the prompt what it and others would have been worth, by token id.
    """

    choices: list[Choice]
    usage: Usage | None = None
    prompt_logprobs: list[dict[str, Token] | None] | None = None


class EchoLogprobs(msgspec.Struct):
    """Tokens of a text with their log-probabilities and the characters at which they begin."""

    tokens: list[str]
    token_logprobs: list[float | None]
    text_offset: list[int]


class EchoChoice(msgspec.Struct):
    """A choice of ``/completions``."""

    logprobs: EchoLogprobs | None = None


class Echo(msgspec.Struct):
    """The part of ``/completions``' answer that counts when the prompt is echoed."""

    choices: list[EchoChoice]


class OpenAIEngine:
    """Asks by ``/chat/completions``; likelihoods by ``/completions`` with an echo, or as vLLM gives them with a chat."""

    default_model: ClassVar[str] = "{path}"
    unknown_model: ClassVar[Fault] = Fault.REFUSED
    """What it means that the server doesn't know the model (404) when it is asked."""
    alternatives: ClassVar[int] = ALTERNATIVES
    """Tokens beside each that are asked for where the entropy is wanted."""

    def __init__(self, config: InferenceConfig, line: Line) -> None:
        self.config = config
        self.line = line

    async def prepare(self, entry: Waiting) -> str:
        """The server has it: only its name is made."""
        return self.name(entry)

    async def release(self, model: str) -> None:
        """Nothing was taken."""

    def name(self, entry: Waiting) -> str:
        """The name under which the server knows a checkpoint."""
        return model_name(self.config.model or self.default_model, entry, mapped(entry.path, self.config.paths))

    async def answer(self, question: Question, model: str, max_tokens: int) -> Answer:
        """Ask one question."""
        body = self._chat(question, model, max_tokens)
        if self.config.logprobs or self.config.entropy:
            body["logprobs"] = True
        if self.config.entropy:
            body["top_logprobs"] = self.alternatives
        completion = await self._complete(body)
        choice = completion.choices[0]
        held = [token.logprob for token in (choice.logprobs.content or ())] if choice.logprobs else []
        confidence = math.exp(min(0.0, sum(held) / len(held))) if held else None
        entropy = _entropy(choice.logprobs.content or []) if choice.logprobs and self.config.entropy else None
        return Answer(text=choice.message.content or "", confidence=confidence, entropy=entropy)

    async def likelihood(self, question: Question, continuation: str, model: str) -> Likelihood:
        """How likely ``continuation`` is as the answer."""
        if self.config.likelihood == "chat":
            return await self._by_chat(question, continuation, model)
        return await self._by_echo(question, continuation, model)

    async def _by_chat(self, question: Question, continuation: str, model: str) -> Likelihood:
        """The chat with the answer in it; what comes after the tokens of the chat without it is the answer."""
        without = await self._complete(self._chat(question, model, 1))
        body = self._chat(question, model, 1) | {"prompt_logprobs": 0, "add_generation_prompt": False}
        body["messages"] = [*body["messages"], {"role": "assistant", "content": continuation}]
        whole = await self._complete(body)
        if without.usage is None or whole.prompt_logprobs is None:
            raise AskError(
                Fault.REFUSED, 'The server gives no prompt_logprobs with a chat: plugin.inference.likelihood = "chat" needs vLLM\'s form.'
            )
        held = [next(iter(told.values())).logprob for told in whole.prompt_logprobs[without.usage.prompt_tokens :] if told]
        return _summed(held)

    async def _by_echo(self, question: Question, continuation: str, model: str) -> Likelihood:
        """The text with the answer in it, echoed with log-probabilities: that of OpenAI's older completions."""
        before = self.config.likelihood_text.format(prompt=question.prompt, system=self.config.system) if question.messages else ""
        whole = before + continuation
        body = {"model": model, "prompt": whole, "max_tokens": 1, "temperature": 0.0, "logprobs": 1, "echo": True}
        answered = decoded(await self._ask("completions", body), Echo, "a completion")
        if not answered.choices or answered.choices[0].logprobs is None:
            raise AskError(
                Fault.REFUSED,
                'The server echoes no log-probabilities: plugin.inference.likelihood = "completion" needs `echo` and `logprobs`.',
            )
        told = answered.choices[0].logprobs
        rows = zip(told.tokens, told.token_logprobs, told.text_offset, strict=False)
        held = [value for token, value, at in rows if value is not None and at < len(whole) and at + len(token) > len(before)]
        return _summed(held)

    def _chat(self, question: Question, model: str, max_tokens: int) -> dict[str, Any]:
        system = [{"role": "system", "content": self.config.system}] if self.config.system else []
        return {
            "model": model,
            "messages": [*system, *question.messages],
            "temperature": self.config.temperature,
            "max_tokens": max_tokens,
            "stream": False,
        }

    async def _complete(self, body: dict[str, Any]) -> Completion:
        completion = decoded(await self._ask("chat/completions", body), Completion, "a chat completion")
        if not completion.choices:
            raise AskError(Fault.WRONG, "The server's answer has not the shape of a chat completion: `choices` is empty.")
        return completion

    async def _ask(self, path: str, body: dict[str, Any]) -> bytes:
        try:
            return await self.line.post(path, body, timeout=self.config.timeout)
        except AskError as error:
            if error.status == NOT_FOUND:
                raise AskError(self.unknown_model, error.problem, status=error.status, reason=error.reason) from error
            raise


def _entropy(tokens: list[Token]) -> float | None:
    """The mean over the tokens: as the server tells it, or what the alternatives add up to at least; None where it tells neither."""
    held = [
        token.entropy if token.entropy is not None else least_entropy(other.logprob for other in token.top_logprobs or ())
        for token in tokens
        if token.entropy is not None or token.top_logprobs
    ]
    return sum(held) / len(held) if held and all(math.isfinite(value) for value in held) else None


def _summed(held: list[float]) -> Likelihood:
    if not held or not all(math.isfinite(value) for value in held):
        raise AskError(Fault.WRONG, "The server gave no usable log-probabilities of the expected answer.")
    return Likelihood(total=sum(held), tokens=len(held))
