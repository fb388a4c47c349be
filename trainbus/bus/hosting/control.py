"""The supervisor's line to the broker: it registers there, again and again, and answers what is forwarded to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from trainbus.bus import wire
from trainbus.bus.credentials import secure
from trainbus.bus.home import Connection, read_connection
from trainbus.errors import RefusedError, TrainbusError, UnreachableError

logger = logging.getLogger(__name__)

SILENCE = 10.0
"""Seconds without an answer after which the line is opened anew: after a handshake that failed, libzmq does not try again."""

REGISTER_INTERVAL = 1.0
"""Seconds. A broker that was restarted knows its supervisor again after at most this long; the answers show that it lives."""


class Control:
    """Answers `wire.Forward`.

    Args:
        root: Home directory with the connection file.
        answer: Does what is asked; what it returns is the result, a TrainbusError that it raises the refusal.
        alive: Called with the supervisor's registration confirmed: the broker works.
    """

    def __init__(self, root: Path, answer: Callable[[wire.Supervise], Awaitable[Any]], alive: Callable[[], None]) -> None:
        self._root = root
        self._answer = answer
        self._alive = alive
        self._answering: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Follow the broker, wherever it is, until cancelled."""
        with zmq.asyncio.Context() as context:
            while True:
                try:
                    connection = read_connection(self._root)
                except UnreachableError:
                    await asyncio.sleep(REGISTER_INTERVAL)
                    continue
                try:
                    await self._serve_at(context, connection)
                except RefusedError as error:  # no key that can be read: it may come
                    logger.warning("%s", error.problem)
                    await asyncio.sleep(REGISTER_INTERVAL)

    async def settle(self) -> None:
        """Wait until what was asked is answered."""
        pending = self._answering - {asyncio.current_task()}
        if pending:
            await asyncio.wait(pending, timeout=REGISTER_INTERVAL)

    async def _serve_at(self, context: zmq.asyncio.Context, connection: Connection) -> None:
        with context.socket(zmq.DEALER) as socket:
            socket.linger = 200  # ms: the answer to `down` is the last thing that is sent
            secure(socket, connection, self._root)
            socket.connect(connection.router)
            registering = asyncio.create_task(self._register(socket))
            heard = time.monotonic()
            try:
                while not registering.done():
                    if await socket.poll(int(REGISTER_INTERVAL * 1000)):
                        self._take(socket, await socket.recv())
                        heard = time.monotonic()
                    elif not self._still_at(connection) or time.monotonic() - heard > SILENCE:
                        return
            finally:
                registering.cancel()

    def _still_at(self, connection: Connection) -> bool:
        with contextlib.suppress(UnreachableError):
            return read_connection(self._root) == connection
        return False

    async def _register(self, socket: zmq.asyncio.Socket) -> None:
        number = 0
        while True:
            number += 1
            await socket.send(wire.encode(wire.Call(protocol=wire.PROTOCOL, id=number, request=wire.Supervisor(pid=os.getpid()))))
            await asyncio.sleep(REGISTER_INTERVAL)

    def _take(self, socket: zmq.asyncio.Socket, frame: bytes) -> None:
        try:
            message = wire.decode_message(frame)
        except msgspec.DecodeError:
            return
        if isinstance(message, wire.Reply):
            self._alive()
        elif isinstance(message, wire.Forward):
            task = asyncio.create_task(self._respond(socket, message))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _respond(self, socket: zmq.asyncio.Socket, forward: wire.Forward) -> None:
        try:
            result = await self._answer(forward.request)
            answer = wire.Forwarded(id=forward.id, result=msgspec.Raw(msgspec.msgpack.encode(result)))
        except TrainbusError as error:
            answer = wire.Forwarded(id=forward.id, ok=False, problem=error.problem, hint=error.hint)
        with contextlib.suppress(zmq.ZMQError):  # the broker is gone: who asked will see that themselves
            await socket.send(wire.encode(answer))
