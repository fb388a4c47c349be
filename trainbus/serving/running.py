"""Serve until somebody ends it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from aiohttp import web

from trainbus.errors import ConfigError, ModelError, RefusedError
from trainbus.serving.app import Server
from trainbus.serving.config import ServeConfig

ENDING_SECONDS = 5.0
"""Answers under way may take so long after the signal; then they are cut."""


async def serve(config: ServeConfig, *, preload: bool = True, ready: Callable[[str], None]) -> None:
    """Bind, tell the address, and answer until SIGINT or SIGTERM.

    Args:
        config: See `ServeConfig`.
        preload: Load the active model before the address is told.
        ready: Gets the address (``http://127.0.0.1:8790``).

    Raises:
        ConfigError: The address can't be bound.
        ModelError: The active model can't be loaded.
    """
    server = Server(config)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    # A client that goes cancels its handler, and with it what is generated for it.
    runner = web.AppRunner(server.application(), access_log=None, handler_cancellation=True, shutdown_timeout=ENDING_SECONDS)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, config.host, config.port).start()
        except OSError as error:
            raise ConfigError(
                f"{config.host}:{config.port} can't be bound: {error.strerror}.",
                hint="Choose another --port (0: any that is free).",
                key="port",
            ) from error
        if preload and server.catalogue.active:
            await _preload(server)
        host, port = runner.addresses[0][:2]
        ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        await ended.wait()
    finally:
        await runner.cleanup()


async def _preload(server: Server) -> None:
    try:
        async with server.residency.using(""):
            pass
    except RefusedError as error:
        if error.facts.get("code") != "unknown":  # else it is an adapter whose base comes later
            raise ModelError(error.problem, hint=error.hint) from error
