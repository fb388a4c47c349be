"""A server of the OpenAI form, asked over HTTP with the standard library alone: a machine that only asks needs no other package."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from trainbus.errors import ConfigError, RefusedError, UnreachableError
from trainbus.inferring.asking import Answer, OnPiece, Prompt, Sampling, ignore, request_body
from trainbus.inferring.completions import EventStream, Piece, read, read_models, read_piece, refusal
from trainbus.inferring.exchange import Exchange

T = TypeVar("T")

DEFAULT_SECONDS = 300.0
LIST_SECONDS = 10.0
"""So long the list of models may take: nothing has to be computed for it."""
DEFAULT_CONCURRENCY = 4
VERSION_PATH = "/v1"
CANT = frozenset({400, 422, 501})
"""With these a server refuses what it can't do, such as to stream, or to count tokens while it does."""


class Server:
    """One base address. Thread-safe: each request has a connection of its own. Redirects and proxies are not followed, so that
    questions and key go to this server only.

    Args:
        url: ``http://HOST:PORT`` or ``http://HOST:PORT/v1``.
        key: Sent as a bearer token; empty for none.
        timeout: Seconds that a whole answer may take.

    Raises:
        ConfigError: It is no such address.
    """

    def __init__(self, url: str, *, key: str = "", timeout: float = DEFAULT_SECONDS) -> None:
        self._address = _checked(url)
        self._base = self._address.path.rstrip("/") or VERSION_PATH
        self.url = f"{self._address.scheme}://{self._address.netloc}{self._base}"
        self.timeout = timeout
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._open: set[Exchange] = set()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Server({self.url}, {len(self._open)} requests)"

    def models(self) -> list[str]:
        """The names under which it serves models.

        Raises:
            TrainbusError: It can't be reached, refuses, or answers something else.
        """
        with self._exchange(min(self.timeout, LIST_SECONDS)) as exchange:
            exchange.send("GET", f"{self._base}/models", None, self._headers)
            body = exchange.whole()
            if exchange.status != 200:
                raise refusal(exchange.status, body, self.url)
            return read_models(body, self.url)

    def request(self, method: str, path: str, kind: type[T], what: str, body: Any = None) -> T:
        """The answer to something that needs no computing; ``what`` it should be, for a person.

        Raises:
            TrainbusError: As `models`.
        """
        with self._exchange(self.timeout) as exchange:
            exchange.send(method, f"{self._base}{path}", body, self._headers)
            told = exchange.whole()
            if exchange.status not in (200, 202):
                raise refusal(exchange.status, told, self.url)
            return read(told, kind, what, self.url)

    def model(self, name: str = "", *, label: str = "", checkpoint: str = "", concurrency: int = DEFAULT_CONCURRENCY) -> ServerModel:
        """One of its models to ask; without a name the first that it lists. ``label`` is what it is called in what people read.

        ``checkpoint`` is the id of the checkpoint that it is.

        Raises:
            TrainbusError: As `models`, or it serves none.
        """
        if not name:
            listed = self.models()
            if not listed:
                raise RefusedError(f"{self.url} serves no model.", hint="Name one by --model if it loads them on demand.", code="server")
            name = listed[0]
        return ServerModel(self, name, label=label, checkpoint=checkpoint, concurrency=concurrency)

    def complete(self, model: str, prompt: Prompt, sampling: Sampling, on_piece: OnPiece | None = None) -> Answer:
        """One answer; streamed when somebody wants its pieces.

        Raises:
            TrainbusError: As `models`.
        """
        begun = time.monotonic()
        status, told = 0, b""
        for stream, counted in ((True, True), (True, False), (False, False)) if on_piece is not None else ((False, False),):
            with self._exchange(self.timeout) as exchange:
                body = request_body(model, prompt, sampling.clamped(), stream=stream, counted=counted)
                headers = {**self._headers, "Accept": "text/event-stream, application/json"}
                exchange.send("POST", f"{self._base}/{'' if isinstance(prompt, str) else 'chat/'}completions", body, headers)
                if exchange.status == 200:
                    return self._read(exchange, on_piece or ignore, begun)
                status, told = exchange.status, exchange.whole()
            if status not in CANT or b"stream" not in told.lower():
                break
        raise refusal(status, told, self.url)

    def cut(self) -> None:
        """End all requests; who waits for them gets an error."""
        with self._lock:
            waiting = list(self._open)
        for exchange in waiting:
            exchange.cut()

    def _read(self, exchange: Exchange, on_piece: OnPiece, begun: float) -> Answer:
        first: float | None = None
        pieces: list[Piece] = []
        for data in self._events(exchange) if exchange.content_type == "text/event-stream" else [exchange.whole()]:
            piece = read_piece(data, self.url)
            pieces.append(piece)
            if piece.text:
                first = time.monotonic() - begun if first is None else first
                on_piece(piece.text)
        return Answer(
            text="".join(piece.text for piece in pieces),
            finish_reason=_last(piece.finish_reason or None for piece in pieces) or "",
            prompt_tokens=_last(piece.prompt_tokens for piece in pieces),
            completion_tokens=_last(piece.completion_tokens for piece in pieces),
            seconds=time.monotonic() - begun,
            first_seconds=first,
        )

    def _events(self, exchange: Exchange) -> Iterator[bytes]:
        stream, finished = EventStream(self.url), False
        for chunk in exchange.chunks():
            for data in stream.feed(chunk):
                finished = finished or bool(read_piece(data, self.url).finish_reason)
                yield data
            if stream.done:
                return
        if not finished:
            raise UnreachableError(f"{self.url} ended the connection in the middle of an answer.", hint="Look at the server's log.")

    @contextmanager
    def _exchange(self, seconds: float) -> Iterator[Exchange]:
        with Exchange(self._address, self.url, seconds) as exchange:
            with self._lock:
                self._open.add(exchange)
            try:
                yield exchange
            finally:
                with self._lock:
                    self._open.discard(exchange)


class ServerModel:
    """One model of a server. See `trainbus.inferring.asking.Asked`."""

    def __init__(self, server: Server, name: str, *, label: str = "", checkpoint: str = "", concurrency: int = DEFAULT_CONCURRENCY) -> None:
        self.server = server
        self.name = label or name
        self.checkpoint = checkpoint
        self._asked = name
        self._concurrency = concurrency

    def ask(self, prompt: Prompt, sampling: Sampling, on_piece: OnPiece = ignore) -> Answer:
        """One answer."""
        return self.server.complete(self._asked, prompt, sampling, None if on_piece is ignore else on_piece)

    def ask_all(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """Several at a time. Who stops listening, or interrupts it, ends those that run."""
        threads = ThreadPoolExecutor(max_workers=self._concurrency, thread_name_prefix="ask")
        ended = False
        try:
            waiting = {threads.submit(self.ask, prompt, sampling): number for number, prompt in enumerate(prompts)}
            for done in as_completed(waiting):
                yield waiting[done], done.result()
            ended = True
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            if not ended:
                self.server.cut()


def _last(values: Any) -> Any:
    """The last that is known."""
    found = None
    for value in values:
        found = found if value is None else value
    return found


def _checked(url: str) -> SplitResult:
    try:
        address = urlsplit(url)
        usable = address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{url!r} is no http address.", hint="Write one such as http://127.0.0.1:8000/v1.", found=url)
    return address
