"""A server on a free port of loopback, and a client for it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web

from trainbus.serving.app import Server
from trainbus.serving.config import ServeConfig


class Reply(NamedTuple):
    status: int
    body: Any
    headers: Any = None


class Client:
    """Asks with real HTTP, from the test's thread."""

    def __init__(self, url: str, key: str = "") -> None:
        self.url = url
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def __call__(self, method: str, path: str, body: Any = None, *, data: bytes | None = None, headers: Any = None) -> Reply:
        async def ask() -> Reply:
            timeout = aiohttp.ClientTimeout(total=90)
            async with (
                aiohttp.ClientSession(headers=self.headers | (headers or {}), timeout=timeout) as session,
                session.request(method, self.url + path, json=body, data=data) as response,
            ):
                raw = await response.text()
                decoded = json.loads(raw) if response.content_type == "application/json" else raw
                return Reply(response.status, decoded, response.headers)

        return asyncio.run(ask())

    def get(self, path: str, **more: Any) -> Reply:
        return self("GET", path, **more)

    def post(self, path: str, body: Any, **more: Any) -> Reply:
        return self("POST", path, body, **more)

    def chat(self, text: str = "abc", **more: Any) -> Reply:
        return self.post("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], "max_tokens": 8, **more})

    def events(self, path: str, body: Any) -> list[Any]:
        """The server-sent events of an answer, decoded."""
        reply = self.post(path, {**body, "stream": True})
        assert reply.status == 200, reply.body
        lines = [line.removeprefix("data: ") for line in reply.body.split("\n\n") if line]
        assert lines.pop() == "[DONE]"
        return [json.loads(line) for line in lines]


class Running(NamedTuple):
    server: Server
    url: str
    loop: asyncio.AbstractEventLoop

    def client(self, key: str = "") -> Client:
        return Client(self.url, key)


@contextmanager
def answering(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Iterator[str]:
    """Some other HTTP server on loopback, which does with each request what ``handler`` does; its address."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()


@contextmanager
def running(config: ServeConfig, **more: Any) -> Iterator[Running]:
    """The server in a thread of this process, with its event loop."""
    started, ended = threading.Event(), asyncio.Event()
    found: list[Running] = []
    failed: list[Exception] = []

    async def serve() -> None:
        server = Server(config, **more)
        runner = web.AppRunner(server.application(), access_log=None, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, config.host, 0).start()
            host, port = runner.addresses[0][:2]
            found.append(Running(server, f"http://{host}:{port}", asyncio.get_running_loop()))
            started.set()
            await ended.wait()
        finally:
            await runner.cleanup()

    def run() -> None:
        try:
            asyncio.run(serve())
        except Exception as error:  # noqa: BLE001 - told to the test, which waits
            failed.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(60)
    try:
        if failed:
            raise failed[0]
        yield found[0]
    finally:
        if found:
            found[0].loop.call_soon_threadsafe(ended.set)
        thread.join(60)
    assert not failed
    assert not thread.is_alive()
