"""HTTP to a server that is not trusted: every answer is bounded in time and size, and each failure is a sentence."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, TypeVar

import aiohttp
import msgspec

from trainbus.bus.events import DECODE_ERRORS
from trainbus.plugins.inference.faults import AskError, Fault

CONNECT_SECONDS = 10.0
QUOTED = 200
"""Characters of a wrong answer that are shown to a person."""

BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may be different in a moment."""
UNFIT = frozenset({400, 413, 422})
"""Statuses that speak of what was sent, not of the model or of us."""

T = TypeVar("T")


class Line:
    """One HTTP session to a server. An async context manager.

    Redirects are not followed and proxies of the environment not used: questions and key go to the configured server only.

    Args:
        url: The base address, with its version.
        limit: Largest answer in bytes that is read.
    """

    def __init__(self, url: str, key: str = "", *, connections: int = 4, limit: int = 1024 * 1024) -> None:
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._connections = connections
        self._limit = limit
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Line:
        connector = aiohttp.TCPConnector(limit=self._connections)
        self._session = aiohttp.ClientSession(connector=connector, headers=self._headers)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, path: str, body: Any, *, timeout: float, root: bool = False) -> bytes:
        """Send JSON; the body of a good answer.

        Args:
            path: Below the base address; with ``root`` below the address without its version.
            timeout: Seconds from the first to the last byte.

        Raises:
            AskError: There is no such answer.
        """
        return await self.request("POST", path, timeout=timeout, root=root, json=body)

    async def request(self, method: str, path: str, *, timeout: float, root: bool = False, **options: Any) -> bytes:
        """As `post`, with aiohttp's options for the body."""
        if self._session is None:
            raise RuntimeError("a Line is used inside `async with`")
        base = self.url.rpartition("/")[0] if root and self.url.rpartition("/")[2].startswith("v") else self.url
        url = f"{base}/{path.lstrip('/')}"
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=min(CONNECT_SECONDS, timeout))
        try:
            async with self._session.request(method, url, allow_redirects=False, timeout=limits, **options) as response:
                return accepted(response.status, await self._read(response, url))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise AskError(Fault.AWAY, f"{url} can't be reached: {error}.") from error
        except TimeoutError as error:
            raise AskError(Fault.TROUBLE, f"{url} did not finish its answer within {timeout:g} s.") from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise AskError(Fault.TROUBLE, f"{url} broke the connection: {short(str(error)) or type(error).__name__}.") from error
        except (aiohttp.ClientError, asyncio.IncompleteReadError, ValueError) as error:
            raise AskError(Fault.WRONG, f"{url} does not speak HTTP as it should: {short(str(error))}.") from error

    async def _read(self, response: aiohttp.ClientResponse, url: str) -> bytes:
        """The body, up to the limit: a server can't fill this machine's memory."""
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > self._limit:
                raise AskError(Fault.WRONG, f"{url} answered more than {self._limit} bytes (plugin.inference.max_answer_bytes).")
        return bytes(body)


def accepted(status: int, body: bytes) -> bytes:
    """The body of a good answer.

    Raises:
        AskError: The status says that it is none.
    """
    if 200 <= status < 300:
        return body
    fault = Fault.TROUBLE if status in BUSY else Fault.QUESTION if status in UNFIT else Fault.REFUSED
    reason = told(body)
    raise AskError(fault, f"The server answered with HTTP {status}: {reason or quote(body)}", status=status, reason=reason)


def decoded(body: bytes, kind: type[T], what: str) -> T:
    """An answer's JSON as a Struct.

    Args:
        what: What it should be, for a person: "a chat completion".

    Raises:
        AskError: It is something else.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise AskError(Fault.WRONG, f"The server's answer has not the shape of {what}: {error}.") from error
    except DECODE_ERRORS as error:
        raise AskError(Fault.WRONG, f"The server answered what is no JSON: {quote(body)}") from error


def told(body: bytes) -> str:
    """The message of an OpenAI error, of FastAPI or of an older vLLM; empty where there is none."""
    try:
        found: Any = msgspec.json.decode(body)
    except DECODE_ERRORS:
        return ""
    for name in ("error", "message", "detail"):
        found = found[name] if isinstance(found, dict) and name in found else found
    return short(found) if isinstance(found, str) else ""


def quote(body: bytes) -> str:
    """The beginning of what came, for a person."""
    return repr(short(body[: 4 * QUOTED].decode("utf-8", "replace")))


def short(text: str) -> str:
    """At most `QUOTED` characters."""
    return text if len(text) <= QUOTED else text[:QUOTED] + "…"
