"""What waits for the model: answers to generate, answers to score, and the line in which they stand. Imports torch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeAlias

from trainbus.errors import TrainbusError
from trainbus.serving.prompts import Prompts
from trainbus.serving.requests import Options, Piece, Score, Token
from trainbus.serving.sampling import Sampler
from trainbus.serving.scoring import Given, Likelihood
from trainbus.serving.text import TextStream

Listener: TypeAlias = Callable[[Piece | TrainbusError], None]
"""Called on the model's thread, briefly: it hands on."""


class Ticket:
    """Cancels a request. What it has made so far is told, with the reason ``cancelled``."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Stop at the next token. After the end it does nothing."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether it was."""
        return self._cancelled.is_set()


class Row:
    """One answer in the making.

    Args:
        prompt: Token ids.
        limit: The longest answer.
        adapter: Its name.
        ends: Tokens that end an answer.
    """

    def __init__(
        self, prompt: list[int], options: Options, limit: int, adapter: str, prompts: Prompts, ends: frozenset[int], listener: Listener
    ) -> None:
        self.prompt = prompt
        self.limit = limit
        self.adapter = adapter
        self.ticket = Ticket()
        self.since = time.monotonic()
        self.last = 0
        self.made = 0
        self.sampler = Sampler(options, prompt)
        self.alternatives = options.logprobs
        self._deadline = None if options.seconds is None else self.since + options.seconds
        self._prompts = prompts
        self._ends = ends
        self._listener = listener
        self._text = TextStream(prompts.decode, options.stop)

    @property
    def cost(self) -> int:
        """Places that it may take in the cache."""
        return len(self.prompt) + self.limit

    def cut(self, now: float) -> bool:
        """Whether it ends here because nobody wants it any more, or its time is over; then that is told."""
        reason = "cancelled" if self.ticket.cancelled else "time" if self._deadline is not None and now >= self._deadline else ""
        if reason:
            self._end(reason)
        return bool(reason)

    def take(self, token: int, likelihood: Likelihood | None) -> bool:
        """The next token: tell what can be told. Returns whether it was the last."""
        self.last = token
        self.made += 1
        if token in self._ends:
            self._end("stop")
            return True
        told = () if likelihood is None else (named(token, likelihood, self._prompts),)
        shown = self._text.push(token)
        if shown.stop is not None:
            self._tell(Piece(text=shown.text, tokens=told, finish_reason="stop", stop=shown.stop))
            return True
        if self.made >= self.limit:
            self._end("length", shown.text, told)
            return True
        if shown.text or told:
            self._tell(Piece(text=shown.text, tokens=told))
        return False

    def fail(self, error: TrainbusError) -> None:
        """It ends with an error."""
        self._hand_on(error)

    def _end(self, reason: str, text: str = "", tokens: tuple[Token, ...] = ()) -> None:
        rest = self._text.finish()
        reason = "stop" if rest.stop is not None else reason
        self._tell(Piece(text=text + rest.text, tokens=tokens, finish_reason=reason, stop=rest.stop))

    def _tell(self, piece: Piece) -> None:
        self._hand_on(
            Piece(
                text=piece.text,
                tokens=piece.tokens,
                finish_reason=piece.finish_reason,
                stop=piece.stop,
                prompt_tokens=len(self.prompt),
                completion_tokens=self.made,
            )
        )

    def _hand_on(self, told: Piece | TrainbusError) -> None:
        try:
            self._listener(told)
        except RuntimeError:  # the asker's event loop is closed
            self.ticket.cancel()


class Scoring:
    """Given answers that are to be scored with one adapter."""

    def __init__(self, items: Sequence[Given], adapter: str, prompts: Prompts) -> None:
        self.items = items
        self.adapter = adapter
        self.since = time.monotonic()
        self.future: Future[list[Score]] = Future()
        self._prompts = prompts

    @property
    def cost(self) -> int:
        """It takes no place in the cache."""
        return 0

    def done(self, found: Sequence[list[Likelihood]]) -> None:
        """Tell the scores."""
        self.future.set_result([self._score(item, told) for item, told in zip(self.items, found, strict=True)])

    def fail(self, error: TrainbusError) -> None:
        """It ends with an error."""
        self.future.set_exception(error)

    def _score(self, item: Given, told: list[Likelihood]) -> Score:
        losses = [-one.logprob for one in told if one.logprob is not None]
        return Score(
            loss=sum(losses) / len(losses) if losses else 0.0,
            prompt_tokens=len(item.prompt),
            tokens=tuple(named(token, one, self._prompts) for token, one in zip(item.answer, told, strict=True)),
        )


def named(token: int, likelihood: Likelihood, prompts: Prompts) -> Token:
    """A token with its text, and those of its alternatives."""
    top = tuple((prompts.name(other), logprob) for other, logprob in likelihood.top)
    return Token(token, prompts.name(token), likelihood.logprob, top, likelihood.entropy)


def take(
    waiting: list[Row | Scoring], adapter: str, rows: int, cost: int, *, empty: bool, patience: float, now: float
) -> list[Row | Scoring]:
    """Take out of the line what goes to the model next: the oldest that want the adapter that is selected.

    Args:
        waiting: The line, oldest first; what is taken leaves it.
        adapter: The one that the rows under way have.
        rows: So many more may be under way.
        cost: So many more places of the cache may be taken; alone, a row may take more.
        empty: No row is under way: then the oldest one's adapter is taken instead.
        patience: While somebody who wants another adapter has waited longer than these seconds, nobody comes in before.
        now: Seconds on the clock of the rows.
    """
    if not waiting:
        return []
    if empty:
        adapter = waiting[0].adapter
    elif any(one.adapter != adapter and now - one.since > patience for one in waiting):
        return []
    chosen: list[Row | Scoring] = []
    for one in waiting:
        if one.adapter != adapter:
            continue
        if isinstance(one, Row):
            if rows == 0 or (one.cost > cost and not (empty and not any(isinstance(other, Row) for other in chosen))):
                break
            rows, cost = rows - 1, cost - one.cost
        chosen.append(one)
    taken = set(map(id, chosen))
    waiting[:] = [one for one in waiting if id(one) not in taken]
    return chosen
