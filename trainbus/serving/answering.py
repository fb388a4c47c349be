"""The routes that ask a model: OpenAI's two forms, ``/generate``, and the loss of given answers."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

from aiohttp import web
from msgspec import Meta, Struct

from trainbus.errors import RefusedError, TrainbusError
from trainbus.serving import openai
from trainbus.serving.config import ServeConfig
from trainbus.serving.openai import ChatRequest, GenerateRequest, Message, TextRequest
from trainbus.serving.replies import body_of, json, problem
from trainbus.serving.requests import Completion, Options, Piece, Prompt
from trainbus.serving.residency import Residency, Use

if TYPE_CHECKING:
    from trainbus.serving.scoring import Given

GIVEN_MAX = 256
"""Given answers of one request."""


class GivenAnswer(Struct, kw_only=True):
    """A prompt, as text or as messages, and the answer to measure."""

    answer: str
    prompt: str = ""
    messages: list[Message] | None = None

    def pair(self) -> tuple[Prompt, str]:
        """Prompt and answer."""
        return (self.prompt if self.messages is None else [message.plain() for message in self.messages]), self.answer


class LossRequest(Struct, kw_only=True):
    """``/v1/loss``. With ``end`` the end of the turn counts as a token of the answer, as in training."""

    items: Annotated[list[GivenAnswer], Meta(min_length=1, max_length=GIVEN_MAX)]
    model: str = ""
    end: bool = True
    tokens: bool = False


class Answering:
    """Handlers over the models that are loaded.

    Args:
        residency: Loads what is asked for.
        config: Limits.
    """

    def __init__(self, residency: Residency, config: ServeConfig) -> None:
        self._residency = residency
        self._config = config

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/chat/completions``."""
        asked = await body_of(request, ChatRequest)
        asked.check()
        prompt = asked.conversation()
        limit = asked.max_completion_tokens or asked.max_tokens
        options = [asked.options(limit, asked.alternatives(), self._config.max_seconds, choice) for choice in range(asked.n or 1)]
        made = _head("chatcmpl", asked.model)

        def chunk(index: int, piece: Piece, *, first: bool) -> dict[str, Any]:
            delta = {"role": "assistant"} if first else {}
            if piece.text or first:
                delta["content"] = piece.text
            told = openai.chat_logprobs(piece.tokens) if piece.tokens else None
            choice = {"index": index, "delta": delta, "logprobs": told, **openai.finish(piece)}
            return {**made, "object": "chat.completion.chunk", "choices": [choice]}

        async with self._residency.using(asked.model) as use:
            text: Prompt = prompt
            if not asked.add_generation_prompt:
                text = use.generator.encode_chat(prompt, adapter=use.adapter, open_answer=False)
            if asked.stream:
                return await self._stream(
                    request, use, [text] * len(options), options, chunk, made | {"object": "chat.completion.chunk"}, asked
                )
            measured = None
            if asked.prompt_logprobs is not None:
                ids = use.generator.encode_chat(prompt, adapter=use.adapter, open_answer=asked.add_generation_prompt)
                measured = openai.prompt_logprobs((await self._scores(use, [_given([], ids)]))[0])
            answers = await _all(use, [text] * len(options), options)
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": answer.text},
                "logprobs": openai.chat_logprobs(answer.tokens) if asked.logprobs else None,
                **openai.finish(answer),
            }
            for index, answer in enumerate(answers)
        ]
        counts = openai.usage(answers[0].prompt_tokens, sum(answer.completion_tokens for answer in answers))
        return json({**made, "object": "chat.completion", "choices": choices, "usage": counts, "prompt_logprobs": measured})

    async def text(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/completions``."""
        asked = await body_of(request, TextRequest)
        asked.check()
        prompts, count = asked.prompts(), asked.n or 1
        if asked.echo and asked.stream:
            raise RefusedError("`echo` can't be streamed.", hint="Leave one of them out.", code="invalid", param="echo")
        if not asked.max_tokens and not asked.echo:
            raise RefusedError("`max_tokens` is 0.", hint="Ask for a token at least, or set `echo`.", code="invalid", param="max_tokens")
        if not prompts or len(prompts) * count > self._config.max_waiting:
            raise RefusedError(f"There are {len(prompts)} prompts.", hint="Ask in several requests.", code="invalid", param="prompt")
        options = [
            asked.options(asked.max_tokens or 1, asked.logprobs, self._config.max_seconds, choice)
            for _ in prompts
            for choice in range(count)
        ]
        every = [prompt for prompt in prompts for _ in range(count)]
        made = _head("cmpl", asked.model) | {"object": "text_completion"}

        def chunk(index: int, piece: Piece, *, first: bool) -> dict[str, Any]:
            told = openai.text_logprobs(piece.tokens) if piece.tokens else None
            return {**made, "choices": [{"index": index, "text": piece.text, "logprobs": told, **openai.finish(piece)}]}

        async with self._residency.using(asked.model) as use:
            if asked.stream:
                return await self._stream(request, use, every, options, chunk, made, asked)
            answers = await _all(use, every, options) if asked.max_tokens else [_nothing() for _ in every]
            echoes = await self._echoes(use, prompts, asked.logprobs) if asked.echo else None
        choices = []
        for index, answer in enumerate(answers):
            before, tokens = echoes[index // count] if echoes else ("", ())
            told = None if asked.logprobs is None else openai.text_logprobs((*tokens, *answer.tokens))
            choices.append({"index": index, "text": before + answer.text, "logprobs": told, **openai.finish(answer)})
        prompt_tokens = sum(len(tokens) for _, tokens in echoes) if echoes else sum(one.prompt_tokens for one in answers[::count])
        counts = openai.usage(prompt_tokens, sum(answer.completion_tokens for answer in answers))
        return json({**made, "choices": choices, "usage": counts})

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """``POST /generate``."""
        asked = await body_of(request, GenerateRequest)
        stops = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
        options = Options(
            max_tokens=asked.max_tokens,
            temperature=asked.temperature,
            top_p=asked.top_p,
            seed=asked.seed,
            stop=tuple(stop for stop in stops if stop),
            seconds=self._config.max_seconds,
        )
        began = time.monotonic()
        async with self._residency.using(asked.model) as use:
            answer = await use.generator.answer(asked.asked(), options, adapter=use.adapter)
        counts = openai.usage(answer.prompt_tokens, answer.completion_tokens)
        made = {"model": use.entry.id, "generated_text": answer.text, "finish_reason": answer.finish_reason, "usage": counts}
        return json({**made, "seconds": time.monotonic() - began})

    async def loss(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/loss``."""
        asked = await body_of(request, LossRequest)
        pairs = [item.pair() for item in asked.items]
        async with self._residency.using(asked.model) as use:
            scores = await asyncio.to_thread(use.generator.score_many, pairs, adapter=use.adapter, end=asked.end)
        data = [
            {"index": index, "loss": score.loss, "tokens": len(score.tokens)}
            | ({"logprobs": openai.chat_logprobs(score.tokens)} if asked.tokens else {})
            for index, score in enumerate(scores)
        ]
        return json({"object": "list", "model": use.entry.id, "data": data})

    async def _scores(self, use: Use, items: Sequence[Given]) -> Any:
        return await asyncio.to_thread(use.generator.likelihoods, items, adapter=use.adapter)

    async def _echoes(self, use: Use, prompts: Sequence[str | list[int]], logprobs: int | None) -> list[tuple[str, tuple[Any, ...]]]:
        ids = [use.generator.encode(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
        scores = await self._scores(use, [_given([], one, logprobs or 0) for one in ids])
        texts = [prompt if isinstance(prompt, str) else use.generator.decode(prompt) for prompt in prompts]
        return [(text, score.tokens) for text, score in zip(texts, scores, strict=True)]

    async def _stream(
        self,
        request: web.Request,
        use: Use,
        prompts: Sequence[Prompt],
        options: Sequence[Options],
        chunk: Callable[..., dict[str, Any]],
        made: dict[str, Any],
        asked: openai.Asked,
    ) -> web.StreamResponse:
        """Server-sent events. The first piece is awaited before the status is sent, so that a refusal still has its own."""
        async with aclosing(_merged(use, prompts, options)) as pieces:
            index, piece = await anext(pieces)
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"})
            await response.prepare(request)
            begun: set[int] = set()
            counts: dict[int, Piece] = {}
            with contextlib.suppress(ConnectionResetError):  # the client is gone: leaving the block cancels what it had asked for
                try:
                    while True:
                        await response.write(openai.event(chunk(index, piece, first=index not in begun)))
                        begun.add(index)
                        counts[index] = piece
                        index, piece = await anext(pieces)
                except StopAsyncIteration:
                    pass
                except TrainbusError as error:
                    await response.write(openai.event(problem(error)[1]))
                if asked.stream_options is not None and asked.stream_options.include_usage:
                    total = openai.usage(
                        sum(counts[one].prompt_tokens for one in range(0, len(prompts), asked.n or 1) if one in counts),
                        sum(one.completion_tokens for one in counts.values()),
                    )
                    await response.write(openai.event({**made, "choices": [], "usage": total}))
                await response.write(openai.DONE)
                await response.write_eof()
            return response


async def _all(use: Use, prompts: Sequence[Prompt], options: Sequence[Options]) -> list[Completion]:
    """The whole answers; when one fails or the client goes, the others are cancelled."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_unwrapped(use.generator.answer(prompt, one, adapter=use.adapter)))
            for prompt, one in zip(prompts, options, strict=True)
        ]
    results = [task.result() for task in tasks]
    for result in results:
        if isinstance(result, TrainbusError):
            raise result
    return [result for result in results if isinstance(result, Completion)]


async def _unwrapped(answer: Any) -> Completion | TrainbusError:
    try:
        made: Completion = await answer
        return made
    except TrainbusError as error:
        return error


async def _merged(use: Use, prompts: Sequence[Prompt], options: Sequence[Options]) -> AsyncGenerator[tuple[int, Piece]]:
    """The pieces of several answers as they come, each with its answer's number."""
    pieces: asyncio.Queue[tuple[int, Piece | TrainbusError | None]] = asyncio.Queue()

    async def one(index: int, prompt: Prompt, how: Options) -> None:
        try:
            async with aclosing(use.generator.stream(prompt, how, adapter=use.adapter)) as made:
                async for piece in made:
                    pieces.put_nowait((index, piece))
        except TrainbusError as error:
            pieces.put_nowait((index, error))
        pieces.put_nowait((index, None))

    tasks = [asyncio.create_task(one(index, prompt, how)) for index, (prompt, how) in enumerate(zip(prompts, options, strict=True))]
    try:
        left = len(tasks)
        while left:
            index, piece = await pieces.get()
            if isinstance(piece, TrainbusError):
                raise piece
            if piece is None:
                left -= 1
            else:
                yield index, piece
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _given(prompt: Sequence[int], answer: Sequence[int], alternatives: int = 0) -> Given:
    from trainbus.serving.scoring import Given

    return Given(prompt, answer, alternatives)


def _head(prefix: str, model: str) -> dict[str, Any]:
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}


def _nothing() -> Completion:
    return Completion(text="", finish_reason="length", prompt_tokens=0, completion_tokens=0)
