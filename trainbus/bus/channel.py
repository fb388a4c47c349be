"""The socket under a link: one DEALER that follows the broker, used by one thread.

Without a fixed address the connection file is watched, so that a broker that starts, restarts or moves is found. A changed address
gets a fresh socket. ZMQ_IMMEDIATE makes libzmq drop what was queued for a connection that broke: the link sends it again itself.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable
from pathlib import Path

import msgspec
import zmq

from trainbus.bus import wire
from trainbus.bus.credentials import at_address, chosen, secure
from trainbus.bus.handshake import AGAIN_SECONDS, FAILURES, failed
from trainbus.bus.home import Connection, connection_file, read_connection
from trainbus.bus.link import Link, State
from trainbus.errors import TrainbusError, UnreachableError

FOLLOW_SECONDS = 0.5
"""How often the connection file is looked at: one stat, 2 microseconds."""
HIGH_WATER_MARK = 1_000
BYE_LINGER_MS = 200
"""How long closing waits for the last message to leave."""
RECONNECT_MS, RECONNECT_MAX_MS = 100, 2_000
PATIENCE_SECONDS = 3.0
"""How long handshakes may fail before that counts as a problem: while keys are renewed, some do."""
PING_MS, PING_TIMEOUT_MS = 5_000, 15_000
"""ZMTP heartbeats: they only find connections that broke without a word. Liveness is judged from acknowledgements."""

DESCRIPTORS = 24
"""Free file descriptors to see before a socket is made: libzmq aborts the process, training and all, when it gets none for a thread."""

_monitor_event = struct.Struct("=hi")


def _check_descriptors() -> None:
    """Raise UnreachableError when this process has next to no file descriptors left."""
    with contextlib.ExitStack() as taken:
        try:
            for _ in range(DESCRIPTORS):
                taken.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            hint = "Raise the limit (`ulimit -n`), or find out what keeps so many files open."
            raise UnreachableError(f"no file descriptors are left to connect with: {error.strerror}", hint=hint) from error


def _events(socket: zmq.Socket[bytes]) -> int:
    return int(socket.get(zmq.EVENTS))


class Channel:
    """Moves a link's messages. Made, used and closed by one thread."""

    def __init__(self, link: Link, *, root: Path, router: str | None = None) -> None:
        self.link = link
        self.undecodable = 0
        self._fixed = router
        self._again_at: float | None = None
        self._failing_since: float | None = None
        self._file = connection_file(root)
        self._root = root
        self._address: str | None = None
        self._seen: tuple[int, int] | None = None
        self._look_at = 0.0
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._blocked = False
        self._nothing_came = False

    @property
    def address(self) -> str | None:
        """The broker that this channel is connected, or trying to connect, to."""
        return self._address

    def pump(self, now: float, *, flush: bool = True) -> None:
        """Take in what came, send what is due. Never waits."""
        self._follow(now)
        socket, link = self._socket, self.link
        if socket is None:
            return
        if not self._nothing_came:
            self._take_in(socket, now)
        self._nothing_came = False
        self._blocked = False
        while link.state is not State.OFFLINE:
            if not _events(socket) & zmq.POLLOUT:
                self._blocked = True
                break
            outgoing = link.poll(now, flush=flush)
            if outgoing is None:
                break
            socket.send(wire.encode(outgoing), zmq.NOBLOCK)

    def _take_in(self, socket: zmq.Socket[bytes], now: float) -> None:
        self._watch(now)
        while _events(socket) & zmq.POLLIN:
            frame = socket.recv(zmq.NOBLOCK)
            try:
                message = wire.decode_message(frame)
            except msgspec.DecodeError:  # a newer broker's message: the answer to something that we didn't say
                self.undecodable += 1
                continue
            self.link.receive(message, now)

    def wait(self, timeout: float, wake: Iterable[int] = ()) -> None:
        """Wait until something can be pumped, one of the file descriptors ``wake`` is readable, or ``timeout`` seconds are over."""
        poller = zmq.Poller()
        for fd in wake:
            poller.register(fd, zmq.POLLIN)
        if self._socket is not None and self._monitor is not None:
            poller.register(self._socket, zmq.POLLIN | zmq.POLLOUT if self._blocked else zmq.POLLIN)
            poller.register(self._monitor, zmq.POLLIN)
        ready = {source for source, _ in poller.poll(max(0, int(timeout * 1000 + 0.999)))}
        self._nothing_came = self._monitor is not None and self._socket not in ready and self._monitor not in ready

    def wake_at(self) -> float:
        """When `pump` is due even if nothing happens."""
        return self._look_at if self._blocked else min(self.link.wake_at(), self._look_at)

    def close(self) -> None:
        """Close the socket, waiting shortly for what was just sent, and end the context's threads."""
        self._disconnect(linger=BYE_LINGER_MS if self.link.said_bye else 0)
        self._context.destroy(linger=0)

    def _follow(self, now: float) -> None:
        if now < self._look_at:
            return
        self._look_at = now + FOLLOW_SECONDS
        again = self._again_at is not None and now >= self._again_at
        try:
            connection = self._look(again=again)
        except TrainbusError as error:  # a token that is none
            self.link.problem = error.problem
            return
        if connection is None:
            return
        if self._socket is not None:
            self._disconnect(linger=0)
            self.link.disconnected(now)
        self._again_at = None
        try:
            self._connect(connection)
        except TrainbusError as error:  # no key, or none that can be read; it may come
            self.link.problem = error.problem
            self._again_at = now + AGAIN_SECONDS

    def _look(self, *, again: bool) -> Connection | None:
        """Where to connect to anew; None while the connection that we have is the right one."""
        if self._fixed is not None:
            return at_address(self._root, self._fixed) if self._socket is None or again else None
        if (credentials := chosen(self._root)) is not None:
            return credentials.connection() if self._socket is None or again else None
        try:
            stat = self._file.stat()
        except OSError:
            return None  # a broker that is being restarted; the old socket goes on trying
        seen = (stat.st_ino, stat.st_mtime_ns)
        if seen == self._seen and not again:
            return None
        try:
            connection = read_connection(self._root)
        except TrainbusError:
            return None
        self._seen = seen
        return connection

    def _connect(self, connection: Connection) -> None:
        address = connection.router
        _check_descriptors()
        socket = self._context.socket(zmq.DEALER)
        try:
            secure(socket, connection, self._root)
            socket.set(zmq.LINGER, 0)
            socket.set(zmq.IMMEDIATE, 1)
            socket.set(zmq.SNDHWM, HIGH_WATER_MARK)
            socket.set(zmq.RCVHWM, HIGH_WATER_MARK)
            socket.set(zmq.MAXMSGSIZE, wire.MAX_MESSAGE_BYTES)
            socket.set(zmq.RECONNECT_IVL, RECONNECT_MS)
            socket.set(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
            socket.set(zmq.HEARTBEAT_IVL, PING_MS)
            socket.set(zmq.HEARTBEAT_TIMEOUT, PING_TIMEOUT_MS)
            self._monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | FAILURES)
            self._monitor.set(zmq.LINGER, 0)
            self._socket, self._address = socket, address
            socket.connect(address)
        except zmq.ZMQError as error:
            self._disconnect(linger=0)
            self.link.problem = f"{address} is no address to connect to: {error}"
        except TrainbusError:
            socket.close(linger=0)
            raise

    def _disconnect(self, *, linger: int) -> None:
        socket, self._socket, self._address = self._socket, None, None
        self._monitor = None
        if socket is not None:
            with contextlib.suppress(zmq.ZMQError):
                socket.disable_monitor()
            socket.close(linger=linger)

    def _watch(self, now: float) -> None:
        """Tell the link of connections made and broken, in order."""
        monitor = self._monitor
        while monitor is not None and _events(monitor) & zmq.POLLIN:
            event, value = _monitor_event.unpack(monitor.recv_multipart(zmq.NOBLOCK)[0])
            if (failure := failed(event, value)) is not None:
                self._failing_since = self._failing_since or now
                if failure.refused or now - self._failing_since > PATIENCE_SECONDS:
                    self.link.problem = f"{self._address}: {failure.reason}"
                if failure.over:
                    self._again_at = now + AGAIN_SECONDS
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._failing_since = None
                self.link.connected(now)
            elif event == zmq.EVENT_DISCONNECTED:
                self.link.disconnected(now)
