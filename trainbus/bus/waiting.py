"""One way of waiting for sockets, driven by a thread or by asyncio.

What waits is written once, as a generator: it does what can be done now without blocking, yields how many seconds it can wait for its
sockets, and returns its result. `run` drives it in the caller's thread, `Waiter` in an event loop. So nothing exists twice, and no
socket is wrapped: asyncio watches the sockets' file descriptors.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Generator, Sequence
from typing import TypeAlias, TypeVar

import zmq

T = TypeVar("T")
Waiting: TypeAlias = Generator[float, None, T]
Sockets: TypeAlias = Callable[[], Sequence["zmq.Socket[bytes]"]]


def run(waiting: Waiting[T], sockets: Sockets) -> T:
    """Drive to the end, blocking the calling thread."""
    while True:
        try:
            seconds = next(waiting)
        except StopIteration as stop:
            result: T = stop.value
            return result
        if seconds > 0:
            # Sockets are reopened while we wait, so the set is made anew: a few microseconds beside a sleep.
            poller = zmq.Poller()
            for socket in sockets():
                poller.register(socket, zmq.POLLIN)
            poller.poll(math.ceil(seconds * 1000))


class Waiter:
    """Drives any number of generators over the same sockets in one event loop.

    Args:
        sockets: Tells the sockets to watch; they may change between two calls.
        progress: Grows when one generator has read what another may wait for.
    """

    def __init__(self, sockets: Sockets, progress: Callable[[], int] = lambda: 0) -> None:
        self._sockets = sockets
        self._progress = progress
        self._sleepers: set[asyncio.Future[None]] = set()
        self._watched: list[int] = []

    async def run(self, waiting: Waiting[T]) -> T:
        """Drive to the end; other tasks run meanwhile. Cancelling closes the generator."""
        try:
            while True:
                before = self._progress()
                try:
                    seconds = next(waiting)
                except StopIteration as stop:
                    result: T = stop.value
                    return result
                finally:
                    if self._progress() != before:
                        self._wake()
                await self._sleep(seconds)
        finally:
            waiting.close()

    async def _sleep(self, seconds: float) -> None:
        """Until a socket has news, another generator read some, or the time is over.

        The file descriptor of a zmq socket says "look", once: whoever sleeps on it must have read its socket until nothing was left.
        """
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        sleeper: asyncio.Future[None] = loop.create_future()
        self._sleepers.add(sleeper)
        self._watch(loop)
        timer = loop.call_later(seconds, _finish, sleeper)
        try:
            await sleeper
        finally:
            timer.cancel()
            self._sleepers.discard(sleeper)
            if not self._sleepers:
                self._unwatch(loop)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        # Always anew: a socket may have been replaced by one whose descriptor has the same number.
        self._unwatch(loop)
        self._watched = [socket.fileno() for socket in self._sockets()]
        for descriptor in self._watched:
            loop.add_reader(descriptor, self._wake)

    def _unwatch(self, loop: asyncio.AbstractEventLoop) -> None:
        for descriptor in self._watched:
            loop.remove_reader(descriptor)
        self._watched = []

    def _wake(self) -> None:
        for sleeper in self._sleepers:
            _finish(sleeper)


def _finish(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
