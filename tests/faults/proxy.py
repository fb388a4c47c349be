"""The tests' own TCP proxy, whose line can be cut, slow, half open or a black hole."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Literal
from urllib.parse import urlsplit

Mood = Literal["whole", "cut", "half-open", "black hole"]
CHUNK = 65_536


class Line:
    """One connection through the proxy. ``dead`` directions swallow what comes, for ever: a stream with a hole in it is no stream."""

    def __init__(self) -> None:
        self.dead: set[str] = set()
        self.writers: list[asyncio.StreamWriter] = []

    def abort(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Proxy:
    """Between a client and ``target`` (tcp://host:port). Its own address is `address`; the mood can be changed at any time, by any thread.

    A line that was half open or in a black hole stays so when the proxy is whole again, as behind a router that has forgotten it: whoever
    uses it must notice and make a new one. ``delay`` is seconds in each direction.
    """

    def __init__(self, target: str) -> None:
        place = urlsplit(target)
        self._target = (place.hostname, place.port)
        self.delay = 0.0
        self._mood: Mood = "whole"
        self._lines: set[Line] = set()
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()
        assert self._listening.wait(20)

    def become(self, mood: Mood) -> None:
        """Change the mood; returns when it holds."""
        asyncio.run_coroutine_threadsafe(self._become(mood), self._loop).result(20)

    def close(self) -> None:
        """End all lines and the thread."""
        self.become("cut")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)

    async def _become(self, mood: Mood) -> None:
        self._mood = mood
        for line in list(self._lines):
            self._apply(line)

    def _apply(self, line: Line) -> None:
        if self._mood == "cut":
            line.abort()
        elif self._mood != "whole":
            line.dead |= {"back"} if self._mood == "half-open" else {"forth", "back"}

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._listening.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line()
        line.writers.append(writer)
        self._lines.add(line)
        try:
            self._apply(line)
            if self._mood == "cut":
                return
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            line.writers.append(far_writer)
            await asyncio.gather(self._pump(line, "forth", reader, far_writer), self._pump(line, "back", far_reader, writer))
        except OSError:
            pass  # one side is gone, so is the other
        finally:
            line.abort()
            self._lines.discard(line)

    async def _pump(self, line: Line, direction: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sender = asyncio.create_task(self._send(line, direction, waiting, writer))
        try:
            while chunk := await reader.read(CHUNK):
                waiting.put_nowait((self._loop.time() + self.delay, chunk))
            if direction not in line.dead:
                raise ConnectionResetError  # ends the other direction, too
        finally:
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await sender

    async def _send(self, line: Line, direction: str, waiting: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            due, chunk = await waiting.get()
            await asyncio.sleep(due - self._loop.time())
            if direction not in line.dead:
                writer.write(chunk)
                await writer.drain()
