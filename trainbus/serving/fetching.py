"""Models that this server gets by itself, from whoever offers their files by digest; only from hosts that its owner allowed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import aiohttp
from yarl import URL

from trainbus.errors import ConfigError, RefusedError
from trainbus.serving.store import Content, Store

FETCH_SECONDS = 20.0
"""One request fetches for so long at most and then tells how far it is; whoever asked asks again."""
CONNECT_SECONDS = 10.0
WRITE_BYTES = 4 << 20
"""Kept at once: each time is a flush to the disk."""


class Fetcher:
    """Gets files into a store, one offer at a time.

    It speaks to allowed hosts only, never follows a redirect, uses no proxy of the environment, and tells nobody what an answer said
    that is not the file which was asked for: whoever may administer this server can't look into its network with it.

    Args:
        hosts: ``HOST`` (any port of it) or ``HOST:PORT``.
        store: Where the files go.

    Raises:
        ConfigError: One of the hosts is none.
    """

    def __init__(self, hosts: Sequence[str], store: Store) -> None:
        self._allowed = [_place(host) for host in hosts]
        self._store = store
        self._one_at_a_time = asyncio.Lock()

    async def fetch(self, address: str, token: str, files: Mapping[str, Content]) -> None:
        """Get what is missing of ``files`` from ``ADDRESS/XXH3``, each from where it was cut; returns early when its time is over.

        Raises:
            RefusedError: ``facts["code"]``: ``forbidden`` when the address is not allowed, ``source`` when what it gives is not what was
                asked for or nothing came, ``full`` when the store has no room.
        """
        base = self._checked(address)
        headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"}
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        async with self._one_at_a_time:
            lacking = await asyncio.to_thread(self._store.missing, files)
            try:
                async with (
                    asyncio.timeout(FETCH_SECONDS),
                    aiohttp.ClientSession(headers=headers, timeout=limits, auto_decompress=False) as session,
                ):
                    for missing in lacking:
                        await self._file(session, base / missing.xxh3, Content(missing.bytes, missing.xxh3), missing.received)
            except TimeoutError:
                if await asyncio.to_thread(self._store.missing, files) == lacking:
                    raise _wrong(f"Nothing came from {base.host} within {FETCH_SECONDS:g} s.") from None
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise _wrong(f"{base.host} could not be asked: {type(error).__name__}.") from error

    def _checked(self, address: str) -> URL:
        """The address as the client will understand it: judged by the same parser, so that there is no second reading of it."""
        try:
            url = URL(address)
            whole = url.scheme in ("http", "https") and url.host and not (url.user or url.password or url.query_string or url.fragment)
        except ValueError:
            whole = False
        if not whole:
            raise RefusedError(f"{address[:200]!r} is no address to fetch from.", hint="http://HOST:PORT", code="invalid", param="url")
        if not any(host == url.raw_host and port in (None, url.port) for host, port in self._allowed):
            raise RefusedError(
                f"This server may not fetch from {url.host}:{url.port}.", hint="Its owner allows hosts by --fetch-from.", code="forbidden"
            )
        return url

    async def _file(self, session: aiohttp.ClientSession, url: URL, content: Content, received: int) -> None:
        held = bytearray()
        headers = {"Range": f"bytes={received}-"} if received else {}
        async with session.get(url, headers=headers, allow_redirects=False) as response:
            begins = response.status == 200 if not received else response.headers.get("Content-Range", "").startswith(f"bytes {received}-")
            if response.status not in (200, 206) or not begins:
                raise _wrong(f"{url.host} answered with HTTP {response.status} instead of the file {content.xxh3} from byte {received} on.")
            try:
                async for block in response.content.iter_any():
                    held += block
                    if received + len(held) > content.bytes:
                        held.clear()
                        raise _wrong(f"{url.host} gives more than the {content.bytes} bytes of {content.xxh3}.")
                    if len(held) >= WRITE_BYTES:
                        received = await self._keep(content, received, held)
            finally:
                if held:  # also what came before a cut
                    received = await self._keep(content, received, held)
        if received < content.bytes:
            raise _wrong(f"{url.host} gave {received} of the {content.bytes} bytes of {content.xxh3}.")

    async def _keep(self, content: Content, received: int, held: bytearray) -> int:
        chunk = bytes(held)
        held.clear()
        try:
            return await asyncio.to_thread(self._store.receive, content, received, chunk)
        except RefusedError as error:
            if error.facts.get("code") == "full":
                raise
            raise _wrong(f"What came is not the file {content.xxh3}.") from error


def _wrong(problem: str) -> RefusedError:
    return RefusedError(problem, hint="Look at who offers it, then ask again.", code="source")


def _place(host: str) -> tuple[str, int | None]:
    try:
        url = URL(f"//{host}")
        name, port = url.raw_host, url.explicit_port
    except ValueError:
        name, port = None, None
    if not name or any(sign in "/@?#" or sign.isspace() for sign in host):
        raise ConfigError(f"{host!r} is no host to fetch from.", hint="Give HOST or HOST:PORT, such as trainer.lan:8791.", key="fetch_from")
    return name, port
