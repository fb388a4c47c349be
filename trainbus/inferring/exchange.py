"""One HTTP request and its answer, with a time limit over all of it, that another thread may cut off."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import SplitResult

import msgspec

from trainbus.errors import ProtocolError, TrainbusError, UnreachableError

CONNECT_SECONDS = 10.0
READ_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""A longer answer is none: a server can't fill this machine's memory."""


class Exchange:
    """Use it in a ``with`` block; what goes wrong on the way is told as our errors.

    Args:
        address: The server; its path is not used.
        url: What messages call it.
        seconds: From connecting to the last byte. A socket's own time-out begins anew with each byte; this one ends also a server that
            sends a byte now and then.
    """

    def __init__(self, address: SplitResult, url: str, seconds: float) -> None:
        self.url = url
        self.status = 0
        self.content_type = ""
        self._seconds = seconds
        self._connection = _connection(address, min(CONNECT_SECONDS, seconds))
        self._socket: socket.socket | None = None
        self._response: http.client.HTTPResponse | None = None
        self._late = threading.Event()
        self._ended = False
        self._watchdog = threading.Timer(seconds, self._time_is_up)
        self._watchdog.daemon = True

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.cancel()
        if self._response is not None:
            self._response.close()
        self._connection.close()

    def send(self, method: str, path: str, body: Any, headers: dict[str, str]) -> None:
        """Send a request (``body`` None: without one) and read the head of its answer."""
        with self._faults():
            self._connection.connect()
            self._socket = self._connection.sock  # http.client forgets it before the body is read
            self._socket.settimeout(self._seconds)
            self._watchdog.start()
            if self._ended:  # cut off while it connected
                self.cut()
            headers = {**headers, "Content-Type": "application/json", "Connection": "close"}
            self._connection.request(method, path, None if body is None else msgspec.json.encode(body), headers)
            self._response = self._connection.getresponse()
            self.status, self.content_type = self._response.status, self._response.headers.get_content_type()

    def chunks(self) -> Iterator[bytes]:
        """The body as it comes."""
        assert self._response is not None, "send comes first"
        total = 0
        while True:
            with self._faults():
                chunk = self._response.read1(READ_BYTES)
                if not chunk and self._late.is_set():
                    raise TimeoutError
            if not chunk:
                return
            total += len(chunk)
            if total > MAX_ANSWER_BYTES:
                raise ProtocolError(f"{self.url} answered more than {MAX_ANSWER_BYTES:,} bytes.", hint="Look at what the server sends.")
            yield chunk

    def whole(self) -> bytes:
        """All of the body."""
        return b"".join(self.chunks())

    def cut(self) -> None:
        """End the connection at once: the server notices, and who reads it gets an error. Any thread may call it."""
        self._ended = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _time_is_up(self) -> None:
        self._late.set()
        self.cut()

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except (http.client.HTTPException, OSError) as error:
            raise self._fault(error) from error

    def _fault(self, error: Exception) -> TrainbusError:
        if self._late.is_set() or isinstance(error, TimeoutError):
            if self._socket is None:
                return UnreachableError(f"{self.url} can't be reached: no connection within {CONNECT_SECONDS:g} s.", hint=_RUNNING)
            problem = f"{self.url} did not finish its answer within {self._seconds:g} s."
            return UnreachableError(problem, hint="Allow more by --timeout, or ask for fewer tokens.")
        told = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        if isinstance(error, http.client.IncompleteRead | http.client.RemoteDisconnected):
            return UnreachableError(f"{self.url} ended the connection in the middle of an answer.", hint="Look at the server's log.")
        if isinstance(error, http.client.HTTPException):
            return ProtocolError(f"{self.url} does not speak HTTP as it should: {told}.", hint="Check the address and its port.")
        return UnreachableError(f"{self.url} can't be reached: {told}.", hint=_RUNNING)


_RUNNING = "Is the server running, and the address right?"


def _connection(address: SplitResult, connect_seconds: float) -> http.client.HTTPConnection:
    host = address.hostname or ""
    if address.scheme == "https":
        return http.client.HTTPSConnection(host, address.port, timeout=connect_seconds, context=ssl.create_default_context())
    return http.client.HTTPConnection(host, address.port, timeout=connect_seconds)
