"""A checkpoint's files offered to one server, by the digests of their contents, for as long as it fetches them."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from trainbus.plugins.inference.config import address_of
from trainbus.plugins.inference.faults import AskError, Fault
from trainbus.plugins.inference.upload import Contents, file_of

TOKEN_BYTES = 32


class Offer(NamedTuple):
    """Where the files are, and the word that opens them until the offer ends."""

    url: str
    token: str


@asynccontextmanager
async def offered(folder: Path, contents: Contents, bind: str, url: str) -> AsyncIterator[Offer]:
    """Answer ``GET URL/XXH3`` (with ranges) to who has the token, while the block runs; nothing listens before or after.

    Only the files of this checkpoint can be read, and only by their digests: no name and no path is ever taken from a request.

    Args:
        bind: ``HOST:PORT``; port 0 takes any that is free.
        url: The address under which the server finds it; empty: the bound one.

    Raises:
        AskError: The address can't be bound, or a file lies outside the checkpoint.
    """
    files = {content.xxh3: file_of(folder, name) for name, content in contents.files.items()}
    token = secrets.token_urlsafe(TOKEN_BYTES)

    async def answer(request: web.Request) -> web.StreamResponse:
        if not hmac.compare_digest(request.headers.get("Authorization", "").encode("utf-8", "replace"), f"Bearer {token}".encode()):
            raise web.HTTPUnauthorized
        path = files.get(request.match_info["xxh3"])
        if path is None or not path.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(path)

    app = web.Application()
    app.router.add_get("/{xxh3}", answer)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.0)
    await runner.setup()
    try:
        host, port = address_of(bind)
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise AskError(Fault.TROUBLE, f"plugin.inference.offer_bind: {bind} can't be bound: {error.strerror or error}.") from error
        bound = runner.addresses[0][1]
        yield Offer(url.rstrip("/") or f"http://{f'[{host}]' if ':' in host else host}:{bound}", token)
    finally:
        await runner.cleanup()
