"""One zmq socket towards the broker: never blocks, knows whether it is connected, can be opened again elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from struct import Struct
from typing import Any

import zmq

from trainbus.bus.handshake import FAILURES, Failed, failed

HEARTBEAT_MS = 5_000
"""A silent connection is probed this often (ZMTP ping), so that one cut without a word is noticed ..."""
HEARTBEAT_TIMEOUT_MS = 20_000
"""... and given up after this time, to be made anew."""
RECONNECT_MS = 100
RECONNECT_MAX_MS = 1_000
"""Pause between attempts to connect: doubled from the first to the second."""

_EVENT = Struct("=Hi")
"""A monitor's first frame: event and value (zmq_socket_monitor(3)). pyzmq's own parser would import asyncio."""

_STATE, _READABLE = int(zmq.EVENTS), int(zmq.POLLIN)
"""As plain numbers: arithmetic on enums takes as long as the question."""
_monitor_numbers = count()
_EVENTS = zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.DISCONNECTED | FAILURES


def _readable(socket: zmq.Socket[bytes]) -> bool:
    """Asked first, because an exception for each empty socket costs twice as much."""
    return bool(int(socket.get(_STATE)) & _READABLE)


class Endpoint:
    """A DEALER or SUB socket with its monitor. Belongs to one thread at a time.

    Args:
        kind: ``zmq.DEALER`` or ``zmq.SUB``.
        subscriptions: Prefixes that a SUB subscribes to.
        receive_high_water_mark: Messages that may wait here unread; beyond it the sender drops.
    """

    def __init__(self, kind: int, *, subscriptions: Iterable[bytes] = (), receive_high_water_mark: int = 1_000) -> None:
        self._kind = kind
        self._subscriptions = list(subscriptions)
        self._high_water_mark = receive_high_water_mark
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self.connected = False
        self.connections = 0
        self.failed: Failed | None = None
        """Why there is no connection, when the last handshake failed. Once that is ``over``, only `open` begins anew."""

    def open(self, address: str, secure: Callable[[Any], None] = lambda _: None) -> None:
        """Connect to ``address``, instead of where it was connected before. Returns at once.

        Args:
            address: Where.
            secure: Gives the socket its keys before it connects; what it raises is passed on.

        Raises:
            zmq.ZMQError: The address is none.
        """
        self.close()
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(self._kind)
        socket.linger = 0
        try:
            secure(socket)
        except BaseException:
            socket.close(linger=0)
            raise
        socket.rcvhwm = self._high_water_mark
        # Only established connections take messages: a request must not lie in wait for a broker that comes up after its caller has gone.
        socket.immediate = True
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        # pyzmq would name the monitor after the descriptor, which a socket closed a moment ago may still hold.
        # Without a high-water mark: a broker that lets us not in gives events each second, libzmq blocks its I/O thread, which all sockets
        # of the process share, when a monitor is full, and a client that nobody calls reads none.
        watched = f"inproc://trainbus-monitor-{next(_monitor_numbers)}"
        socket.monitor(watched, _EVENTS)
        monitor: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
        monitor.linger = 0
        monitor.rcvhwm = 0
        monitor.connect(watched)
        self._socket, self._monitor = socket, monitor
        for prefix in self._subscriptions:
            socket.subscribe(prefix)
        socket.connect(address)

    def close(self) -> None:
        """Disconnect; what was not sent is dropped."""
        if self._socket is not None:
            self._socket.disable_monitor()
            self._socket.close(linger=0)
        if self._monitor is not None:
            self._monitor.close(linger=0)
        self._socket = self._monitor = None
        self.connected = False
        self.failed = None

    def watch(self) -> bool:
        """Read the monitor. True when an established connection broke since the last call.

        To be called before `send`, so that what was sent on a connection that broke is not mistaken for sent on the next one.
        """
        broke = False
        while self._monitor is not None and _readable(self._monitor):
            parts = self._monitor.recv_multipart(zmq.DONTWAIT)
            event, value = _EVENT.unpack(parts[0])
            if (failure := failed(event, value)) is not None:
                self.failed = failure
            elif event == zmq.Event.HANDSHAKE_SUCCEEDED:
                self.connected = True
                self.failed = None
                self.connections += 1
            elif self.connected:
                self.connected, broke = False, True
        return broke

    def send(self, frame: bytes) -> bool:
        """Send if it can be done now."""
        if self._socket is None:
            return False
        try:
            self._socket.send(frame, zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def receive(self) -> bytes | None:
        """The next message if there is one."""
        if self._socket is None or not _readable(self._socket):
            return None
        return self._socket.recv(zmq.DONTWAIT)

    def waiting(self) -> bool:
        """Whether a message waits to be received."""
        return self._socket is not None and _readable(self._socket)

    def sockets(self) -> Sequence[zmq.Socket[bytes]]:
        """What to watch while waiting."""
        return [socket for socket in (self._socket, self._monitor) if socket is not None]
