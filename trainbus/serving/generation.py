"""A model that answers many at once. Imports torch and transformers: load only where it serves.

::

    loaded = load("checkpoints/checkpoint-100")
    with Generator(loaded.model, loaded.tokenizer, adapter=loaded.adapter) as generator:
        generator.complete([{"role": "user", "content": "2 + 2?"}], Options(max_tokens=16)).text
        for piece in generator.iterate("Once upon a time", Options(temperature=0.8, seed=1)):
            print(piece.text, end="")
        generator.score([{"role": "user", "content": "2 + 2?"}], "4").loss
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from trainbus.errors import RefusedError, TrainbusError
from trainbus.serving.adapters import BASE, Adapters
from trainbus.serving.engine import Engine, GeneratorStats, Limits
from trainbus.serving.prompts import Prompts, template_in
from trainbus.serving.requests import DEFAULT_TOKENS, Completion, Options, Piece, Prompt, Score, joined
from trainbus.serving.scoring import Given
from trainbus.serving.work import Listener, Row, Scoring, Ticket

ENDLESS = 1 << 20
"""The context of a model that tells none."""

GREEDY = Options()
LIMITS = Limits()


class Generator:
    """Generates and scores answers in batches that requests join and leave at any token.

    Thread-safe; one thread of its own holds the model. Rows of a batch are computed together, which changes a logit's last digits:
    where two tokens are all but equally likely a greedy answer can differ from the same made alone. With ``Limits(max_batch=1)`` it can't.

    Args:
        model: A causal language model of transformers, in evaluation mode.
        tokenizer: Its tokenizer.
        adapter: A LoRA adapter's folder: requests that name no adapter get it. Without it they get the base.
        limits: How much at once, see `Limits`.

    Raises:
        ModelError: The model keeps no key-value cache, or the adapter does not fit.
    """

    def __init__(self, model: Any, tokenizer: Any, *, adapter: Path | None = None, limits: Limits = LIMITS) -> None:
        self._prompts = Prompts(tokenizer)
        self._ends = self._prompts.ends(getattr(model, "generation_config", None))
        self._templates: dict[str, str | None] = {BASE: None}
        self._default = BASE
        self._limits = limits
        self.context = _context(model, tokenizer)
        self._engine = Engine(model, limits)
        if adapter is not None:
            try:
                self.add_adapter(str(adapter), adapter)
            except TrainbusError:
                self.close()
                raise
            self._default = str(adapter)

    # --- asking ---

    def submit(self, prompt: Prompt, options: Options = GREEDY, *, listener: Listener, adapter: str | None = None) -> Ticket:
        """Ask for an answer; returns at once.

        Args:
            prompt: Text, token ids or messages.
            options: How the answer is made.
            listener: Gets `Piece` after `Piece` on the model's thread, the last one with a ``finish_reason``, or an error, then no more.
            adapter: Its name; ``""``: the base; None: the default.

        Raises:
            RefusedError: ``facts["code"]`` is ``unknown`` (the adapter), ``too_long``, ``busy``, ``template``, ``invalid`` or ``closed``.
        """
        name = self._default if adapter is None else adapter
        ids = self._prompts.ids(prompt, template=self._template(name))
        row = Row(ids, options, self._limit(len(ids), options), name, self._prompts, self._ends, listener)
        self._engine.enter(row)
        return row.ticket

    def iterate(self, prompt: Prompt, options: Options = GREEDY, *, adapter: str | None = None) -> Iterator[Piece]:
        """The answer piece by piece, blocking; who stops iterating cancels it. Raises as `submit`, and ModelError."""
        pieces: queue.SimpleQueue[Piece | TrainbusError] = queue.SimpleQueue()
        ticket = self.submit(prompt, options, listener=pieces.put, adapter=adapter)
        try:
            while True:
                piece = _sound(pieces.get())
                yield piece
                if piece.finish_reason:
                    return
        finally:
            ticket.cancel()

    async def stream(self, prompt: Prompt, options: Options = GREEDY, *, adapter: str | None = None) -> AsyncGenerator[Piece]:
        """The answer piece by piece; closing the iterator, or cancelling the task, cancels it. Raises as `iterate`."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece | TrainbusError] = asyncio.Queue()

        def tell(told: Piece | TrainbusError) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, told)

        ticket = await asyncio.to_thread(self.submit, prompt, options, listener=tell, adapter=adapter)
        try:
            while True:
                piece = _sound(await pieces.get())
                yield piece
                if piece.finish_reason:
                    return
        finally:
            ticket.cancel()

    def complete(self, prompt: Prompt, options: Options = GREEDY, *, adapter: str | None = None) -> Completion:
        """The whole answer, blocking. Raises as `iterate`."""
        return joined(self.iterate(prompt, options, adapter=adapter))

    def complete_many(self, prompts: Sequence[Prompt], options: Options = GREEDY, *, adapter: str | None = None) -> list[Completion]:
        """The answers to many prompts, in their order, blocking. Raises as `iterate`."""
        answers: list[queue.SimpleQueue[Piece | TrainbusError]] = [queue.SimpleQueue() for _ in prompts]
        tickets: list[Ticket] = []
        done: list[Completion] = []
        try:
            for number in range(len(prompts)):
                while len(tickets) < len(prompts) and len(tickets) < number + min(self._limits.max_waiting, 2 * self._engine.max_batch):
                    at = len(tickets)
                    tickets.append(self.submit(prompts[at], options, listener=answers[at].put, adapter=adapter))
                done.append(joined(_until_end(answers[number])))
        finally:
            for ticket in tickets:
                ticket.cancel()
        return done

    async def answer(self, prompt: Prompt, options: Options = GREEDY, *, adapter: str | None = None) -> Completion:
        """The whole answer. Raises as `iterate`."""
        return joined([piece async for piece in self.stream(prompt, options, adapter=adapter)])

    def score(self, prompt: Prompt, answer: str, *, adapter: str | None = None, end: bool = True) -> Score:
        """How likely the model finds a given answer, token by token (teacher-forced), blocking.

        Args:
            prompt: As for `submit`; the empty text for the likelihood of the answer as a text of its own.
            answer: What was or should be answered.
            adapter: As for `submit`.
            end: The end of the turn (for messages, as the chat template writes it) or of the text counts, as it does in training.

        Raises:
            RefusedError: As `submit`.
            ModelError: The model failed.
        """
        return self.score_many([(prompt, answer)], adapter=adapter, end=end)[0]

    def score_many(
        self, pairs: Sequence[tuple[Prompt, str]], *, adapter: str | None = None, end: bool = True, alternatives: int = 0
    ) -> list[Score]:
        """The scores of many answers, in their order, blocking; ``alternatives`` of each token are told. Raises as `score`."""
        name = self._default if adapter is None else adapter
        template = self._template(name)
        items = []
        for prompt, answer in pairs:
            before = [] if isinstance(prompt, str) and not prompt else self._prompts.ids(prompt, template=template)
            items.append(Given(before, self._prompts.answer_ids(prompt, answer, template=template, end=end), alternatives))
        return self.likelihoods(items, adapter=name)

    def likelihoods(self, items: Sequence[Given], *, adapter: str | None = None) -> list[Score]:
        """As `score_many`, for token ids."""
        for item in items:
            if (length := len(item.prompt) + len(item.answer)) > self.context:
                raise _too_long(length, self.context)
        scoring = Scoring(items, self._default if adapter is None else adapter, self._prompts)
        self._engine.enter(scoring)
        return scoring.future.result()

    def encode(self, text: str) -> list[int]:
        """A text's token ids, with what the tokenizer puts at the beginning."""
        return self._prompts.encode(text, special=True)

    def decode(self, ids: Sequence[int]) -> str:
        """Token ids as text, without special tokens."""
        return self._prompts.decode(ids)

    def encode_chat(self, messages: Prompt, *, adapter: str | None = None, open_answer: bool = True) -> list[int]:
        """The token ids of messages; without ``open_answer`` nothing stands behind the last one."""
        template = self._template(self._default if adapter is None else adapter)
        return self._prompts.encode(self._prompts.text(messages, template=template, open_answer=open_answer), special=False)  # type: ignore[arg-type]

    def chat_text(self, messages: Prompt, *, adapter: str | None = None) -> str:
        """What the chat template makes of messages."""
        return self._prompts.text(messages, template=self._template(self._default if adapter is None else adapter))  # type: ignore[arg-type]

    # --- adapters ---

    def add_adapter(self, name: str, folder: Path) -> None:
        """Load an adapter beside those that there are, between two tokens; the base is not read again.

        A ``chat_template.jinja`` in the folder takes the place of the base's for its requests.

        Raises:
            RefusedError: The name is taken (``facts["code"]``: ``exists``).
            ModelError: It can't be loaded, or does not fit.
        """
        self._engine.change(lambda adapters: adapters.add(name, folder))
        self._templates[name] = template_in(folder)

    def remove_adapter(self, name: str) -> None:
        """Let an adapter go.

        Raises:
            RefusedError: ``facts["code"]`` is ``unknown``, or ``busy`` while answers are made with it.
        """

        def remove(adapters: Adapters) -> None:
            if self._engine.uses(name):
                raise RefusedError(f"Answers are being made with the adapter {name!r}.", hint="Try again when they are done.", code="busy")
            adapters.remove(name)
            self._templates.pop(name, None)

        self._engine.change(remove)

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the adapters that are loaded."""
        return self._engine.stats().adapters

    # --- itself ---

    def stats(self) -> GeneratorStats:
        """Counts so far."""
        return self._engine.stats()

    def close(self) -> None:
        """End the thread; who still waits gets a `RefusedError` with the code ``closed``. Again does nothing."""
        self._engine.close()

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _template(self, adapter: str) -> str | None:
        if adapter not in self._templates:
            raise RefusedError(
                f"There is no adapter {adapter!r}.", hint=f"Loaded are: {', '.join(self.adapters) or 'none'}.", code="unknown"
            )
        return self._templates[adapter]

    def _limit(self, prompt: int, options: Options) -> int:
        room = self.context - prompt
        if room < 1 or (options.max_tokens or 0) > room:
            raise _too_long(prompt + (options.max_tokens or 1), self.context)
        return options.max_tokens or min(DEFAULT_TOKENS, room)


def _until_end(pieces: queue.SimpleQueue[Piece | TrainbusError]) -> Iterator[Piece]:
    while True:
        piece = _sound(pieces.get())
        yield piece
        if piece.finish_reason:
            return


def _sound(found: Piece | TrainbusError) -> Piece:
    if isinstance(found, TrainbusError):
        raise found
    return found


def _context(model: Any, tokenizer: Any) -> int:
    """How many tokens prompt and answer may have together."""
    found = [getattr(model.config.get_text_config(), "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
    return min([ENDLESS, *(int(one) for one in found if one and one > 0)])


def _too_long(length: int, context: int) -> RefusedError:
    return RefusedError(
        f"Prompt and answer take {length} tokens, and the model's context has {context}.",
        hint="Ask for fewer tokens, or shorten the prompt.",
        code="too_long",
        found=length,
        allowed=context,
    )
