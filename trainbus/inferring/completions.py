"""Reading what a server of the OpenAI form answers, whole or piece by piece, and trusting nothing of it. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from trainbus.bus.events import DECODE_ERRORS
from trainbus.errors import ProtocolError, RefusedError, TrainbusError, UnreachableError

T = TypeVar("T")

MAX_LINE_BYTES = 1 << 20
"""A longer line of a stream holds no piece of an answer."""
QUOTED_CHARACTERS = 200
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may be different in a moment."""
DONE = "[DONE]"


class _Text(Struct):
    content: str | None = None


class _Choice(Struct):
    message: _Text | None = None
    delta: _Text | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Piece(Struct, frozen=True):
    """A part of an answer, or all of it."""

    text: str = ""
    finish_reason: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class _Model(Struct):
    id: str


class _Models(Struct):
    data: list[_Model]


def read_piece(body: bytes, url: str) -> Piece:
    """A whole completion, or one event of a stream.

    Raises:
        ProtocolError: It is neither.
        RefusedError: It tells an error.
    """
    found = read(body, _Completion, "chat completion", url)
    if found.error:
        raise RefusedError(f"{url} broke off its answer: {_message(found.error)}", hint="Look at the server's log.", code="server")
    usage = found.usage or _Usage()
    if not found.choices:
        if found.usage is None:
            raise _wrong(url, "a chat completion without choices", body)
        return Piece("", "", usage.prompt_tokens, usage.completion_tokens)
    choice = found.choices[0]
    text = choice.message or choice.delta or _Text(choice.text)
    return Piece(text.content or "", choice.finish_reason or "", usage.prompt_tokens, usage.completion_tokens)


def read_models(body: bytes, url: str) -> list[str]:
    """The names in an answer of ``/v1/models``.

    Raises:
        ProtocolError: It is none.
    """
    return [model.id for model in read(body, _Models, "list of models", url).data]


class EventStream:
    """Cuts a stream of server-sent events into the data of each. Feed it bytes as they come.

    Raises:
        ProtocolError: A line is longer than any piece of an answer.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._rest = b""
        self.done = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The data of the events that are whole by now."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise _wrong(self._url, f"more than {MAX_LINE_BYTES:,} bytes in one line", self._rest)
        for line in lines:
            # Comments (": ping"), names and ids of events say nothing of the answer.
            if self.done or not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == DONE.encode():
                self.done = True
            elif data:
                yield data


def refusal(status: int, body: bytes, url: str) -> TrainbusError:
    """What an HTTP status other than 200 means to a person."""
    told = f"{url} answered with HTTP {status}: {reason(body)}"
    if status in BUSY:
        return UnreachableError(told, hint="It may be busy, or still be loading: try again.", status=status)
    hints = {
        401: "It asks for a key: name the environment variable that holds it by --api-key-env.",
        403: "The key is not allowed to do this.",
        404: "`trainbus models list --server URL` shows what it serves.",
    }
    return RefusedError(told, hint=hints.get(status, "The server's log may tell more."), code="server", status=status)


def reason(body: bytes) -> str:
    """The message of an error in the OpenAI form, else the beginning of what came."""
    try:
        told: Any = msgspec.json.decode(body)
    except DECODE_ERRORS:
        return quoted(body)
    return _message(told)


def quoted(body: bytes) -> str:
    """The beginning of bytes that should have been something else, harmless on a terminal."""
    text = " ".join(body[: 4 * QUOTED_CHARACTERS].decode("utf-8", "replace").split())
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return (f"{shown[:QUOTED_CHARACTERS]} ..." if len(shown) > QUOTED_CHARACTERS else shown) or "nothing"


def _message(told: Any) -> str:
    for name in ("error", "detail", "message"):
        told = told[name] if isinstance(told, dict) and name in told else told
    return quoted(told.encode() if isinstance(told, str) else msgspec.json.encode(told))


def read(body: bytes, kind: type[T], what: str, url: str) -> T:
    """An answer's JSON.

    Raises:
        ProtocolError: It is something else.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _wrong(url, f"what has not the shape of a {what} ({error})", body) from error
    except DECODE_ERRORS as error:
        raise _wrong(url, f"what is no JSON where a {what} is expected", body) from error


def _wrong(url: str, what: str, body: bytes) -> ProtocolError:
    hint = "Is it the base address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1?"
    return ProtocolError(f"{url} answered {what}: {quoted(body)}", hint=hint)
