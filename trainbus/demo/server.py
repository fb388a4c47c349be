"""A small OpenAI-compatible server for demonstrations and tests: ``python -m trainbus.demo.server --base DIR --allow ROOT``.

It answers /health, /v1/models and /v1/chat/completions (not streamed). ``model`` in a request is ``base``, or the path of a
checkpoint below an allowed root. The base is loaded once; adapters are put on it as they are asked for, and the last few stay.
"""

from __future__ import annotations

import asyncio
import functools
import signal
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import msgspec
from msgspec import Meta, Struct

from trainbus.bus.events import DECODE_ERRORS
from trainbus.errors import ModelError, TrainbusError

if TYPE_CHECKING:
    from aiohttp import web

    from trainbus.demo.engine import Engine

BODY_BYTES = 1 << 20
"""A larger request is refused: prompts of demonstrations are short."""


class Message(Struct):
    """One message of a request."""

    role: str
    content: str


class ChatRequest(Struct):
    """What of a chat completion's request counts; other fields are passed over, as OpenAI-compatible servers do."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    model: str = "base"
    max_tokens: Annotated[int, Meta(ge=1, le=4096)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, le=4096)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    seed: int | None = None
    stream: bool = False


class Server:
    """The three routes over an `Engine`. One thread generates: answers come one after the other."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generate")

    def application(self) -> web.Application:
        """The aiohttp application."""
        from aiohttp import web

        application = web.Application(client_max_size=BODY_BYTES)
        application.router.add_get("/health", self.health)
        application.router.add_get("/v1/models", self.models)
        application.router.add_post("/v1/chat/completions", self.chat)
        return application

    async def health(self, request: web.Request) -> web.Response:
        """Alive, with counts."""
        return _json({"status": "ok", **msgspec.to_builtins(self._engine.stats())})

    async def models(self, request: web.Request) -> web.Response:
        """The base, and the checkpoints that are loaded."""
        return _json({"object": "list", "data": [{"id": name, "object": "model", "owned_by": "trainbus"} for name in self._engine.names()]})

    async def chat(self, request: web.Request) -> web.Response:
        """One answer, greedy unless a temperature is given."""
        try:
            asked = msgspec.json.decode(await request.read(), type=ChatRequest)
        except DECODE_ERRORS as error:
            return _refusal(400, str(error))
        if asked.stream:
            return _refusal(400, "stream: true is not supported here; leave it out")
        work = functools.partial(
            self._engine.answer,
            asked.model,
            [{"role": message.role, "content": message.content} for message in asked.messages],
            limit=asked.max_completion_tokens or asked.max_tokens,
            temperature=asked.temperature or 0.0,
            seed=asked.seed,
        )
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except ModelError as error:
            return _refusal(404, str(error))
        message = {"role": "assistant", "content": answer.text}
        return _json(
            {
                "id": f"chatcmpl-{uuid.uuid4().hex}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": asked.model,
                "choices": [{"index": 0, "message": message, "finish_reason": answer.finish_reason}],
                "usage": {
                    "prompt_tokens": answer.prompt_tokens,
                    "completion_tokens": answer.completion_tokens,
                    "total_tokens": answer.prompt_tokens + answer.completion_tokens,
                },
            }
        )


def _json(value: Any, status: int = 200) -> web.Response:
    from aiohttp import web

    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def _refusal(status: int, message: str) -> web.Response:
    kind = "invalid_request_error" if status == 400 else "not_found_error"
    return _json({"error": {"message": message, "type": kind, "param": None, "code": None}}, status)


async def _serve(engine: Engine, host: str, port: int) -> None:
    from aiohttp import web

    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    runner = web.AppRunner(Server(engine).application(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        address = runner.addresses[0]
        click.echo(msgspec.json.encode({"url": f"http://{address[0]}:{address[1]}", "model": "base"}).decode())
        sys.stdout.flush()
        await ended.wait()
    finally:
        await runner.cleanup()


@click.command()
@click.option("--base", required=True, type=click.Path(path_type=Path), help="Directory of the base model.")
@click.option(
    "--allow", "roots", multiple=True, type=click.Path(path_type=Path), help="Checkpoints below this directory may be asked. Repeatable."
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=0, show_default=True, help="0 lets the system choose.")
@click.option("--threads", default=1, show_default=True, help="CPU threads for generating; training wants the others.")
def main(base: Path, roots: tuple[Path, ...], host: str, port: int, threads: int) -> None:
    """Serve a base model and the checkpoints trained from it. Prints one JSON line with its URL when it is ready."""
    from trainbus.demo.engine import Engine

    try:
        engine = Engine(base, roots, threads=threads)
    except TrainbusError as error:
        click.echo(str(error), err=True)
        raise click.exceptions.Exit(error.exit_code) from error
    asyncio.run(_serve(engine, host, port))


if __name__ == "__main__":
    main()
