"""Asks an OpenAI-compatible server one question, and trusts nothing that it answers."""

from __future__ import annotations

from enum import Enum
from types import TracebackType
from typing import Any

import aiohttp
import msgspec

from trainbus.bus.events import DECODE_ERRORS
from trainbus.plugins.inference.config import InferenceConfig
from trainbus.plugins.inference.questions import Question

CONNECT_SECONDS = 10.0
QUOTED = 200
"""Characters of a wrong answer that are shown to a person."""

BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may be different in a moment."""


class Fault(Enum):
    """What kind of failure a question met, which decides what is done about it."""

    UNREACHABLE = "unreachable"
    """No server answers, or it says that it is busy: try again."""
    WRONG = "wrong"
    """Something answers, and it is no chat completion: try again, the server may be mended."""
    REFUSED = "refused"
    """The server understood and refused: trying again changes nothing."""


class AskError(Exception):
    """A question got no answer. ``problem`` is a sentence for a person."""

    def __init__(self, fault: Fault, problem: str) -> None:
        super().__init__(problem)
        self.fault = fault
        self.problem = problem


class Message(msgspec.Struct):
    """The part of a completion's message that counts."""

    content: str | None = None


class Choice(msgspec.Struct):
    """One of a completion's choices."""

    message: Message


class Completion(msgspec.Struct):
    """The part of ``/v1/chat/completions``' answer that counts; other fields are skipped."""

    choices: list[Choice]


class Asker:
    """One HTTP session to the server. An async context manager.

    Redirects are not followed and proxies of the environment not used: questions and key go to the configured server only.
    """

    def __init__(self, config: InferenceConfig, key: str = "") -> None:
        self.config = config
        self.url = f"{config.url.rstrip('/')}/chat/completions"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Asker:
        timeout = aiohttp.ClientTimeout(total=self.config.timeout, sock_connect=min(CONNECT_SECONDS, self.config.timeout))
        connector = aiohttp.TCPConnector(limit=self.config.concurrency)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector, headers=self._headers)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(self, question: Question, model: str) -> str:
        """The model's answer.

        Raises:
            AskError: There is none.
        """
        if self._session is None:
            raise RuntimeError("an Asker asks inside `async with`")
        system = [{"role": "system", "content": self.config.system}] if self.config.system else []
        body = {
            "model": model,
            "messages": [*system, *question.messages],
            "temperature": self.config.temperature,
            "max_tokens": self.config.max_tokens,
            "stream": False,
        }
        try:
            async with self._session.post(self.url, json=body, allow_redirects=False) as response:
                return read_answer(response.status, response.content_type, await self._read(response))
        except TimeoutError as error:
            raise AskError(Fault.UNREACHABLE, f"{self.url} did not finish its answer within {self.config.timeout:g} s.") from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise AskError(Fault.UNREACHABLE, f"{self.url} can't be reached: {error}.") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise AskError(Fault.WRONG, f"{self.url} does not speak HTTP as it should: {_short(str(error))}.") from error

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The body, up to the limit: a server can't fill this machine's memory."""
        limit, body = self.config.max_answer_bytes, bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > limit:
                raise AskError(Fault.WRONG, f"{self.url} answered more than {limit} bytes (plugin.inference.max_answer_bytes).")
        return bytes(body)


def read_answer(status: int, content_type: str, body: bytes) -> str:
    """The text in a server's answer.

    Raises:
        AskError: The answer is an error, or no chat completion.
    """
    if status != 200:
        fault = Fault.UNREACHABLE if status in BUSY else Fault.REFUSED
        raise AskError(fault, f"The server answered with HTTP {status}: {_reason(body)}")
    try:
        completion = msgspec.json.decode(body, type=Completion)
    except msgspec.ValidationError as error:
        raise AskError(Fault.WRONG, f"The server's answer has not the shape of a chat completion: {error}.") from error
    except DECODE_ERRORS as error:
        raise AskError(Fault.WRONG, f"The server answered {content_type or 'bytes'} that is no JSON: {_quote(body)}") from error
    if not completion.choices:
        raise AskError(Fault.WRONG, "The server's answer has not the shape of a chat completion: `choices` is empty.")
    return completion.choices[0].message.content or ""


def _reason(body: bytes) -> str:
    """The message of an OpenAI error, else the beginning of what came."""
    try:
        told: Any = msgspec.json.decode(body)
        for name in ("error", "message"):
            told = told[name] if isinstance(told, dict) and name in told else told
    except DECODE_ERRORS:
        told = None
    return _short(told) if isinstance(told, str) else _quote(body)


def _quote(body: bytes) -> str:
    return repr(_short(body[: 4 * QUOTED].decode("utf-8", "replace")))


def _short(text: str) -> str:
    return text if len(text) <= QUOTED else text[:QUOTED] + "…"
