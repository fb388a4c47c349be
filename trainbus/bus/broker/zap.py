"""The key checker: answers libzmq's question at each handshake (ZAP, rfc.zeromq.org/spec/27) in a thread of its own.

libzmq lets nobody in while no answer comes: sockets with a ZAP domain and ZMQ_ZAP_ENFORCE_DOMAIN fail closed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

import zmq
from zmq.utils import z85

logger = logging.getLogger(__name__)

ADDRESS = "inproc://zeromq.zap.01"
DOMAIN = b"trainbus"
KEY_BYTES = 32
LOOK_MILLISECONDS = 200
"""How often the thread looks whether it should end."""

SILENT_SECONDS = 5.0
"""A checker that has not turned for so long hangs."""

Admit: TypeAlias = Callable[[str], tuple[bytes, bytes, bytes]]
"""Public key (Z85) to status, text and user id."""


class KeyChecker:
    """Lives as long as the sockets of its context; `close` it before them.

    Args:
        context: Of the sockets that it guards, which are bound only after this.
        admit: Decides; an exception of it refuses.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], admit: Admit) -> None:
        self._admit = admit
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(ADDRESS)
        self._ending = threading.Event()
        self._turned = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="trainbus-keys", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str:
        """Why nobody new can be let in; empty while the thread does its work."""
        if not self._thread.is_alive():
            return "The thread that checks keys has died: nobody new is let in."
        if time.monotonic() - self._turned > SILENT_SECONDS:
            return "The thread that checks keys hangs: nobody new is let in."
        return ""

    def close(self) -> None:
        """End the thread, which closes its socket."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._ending.is_set():
                self._turned = time.monotonic()
                if self._socket.poll(LOOK_MILLISECONDS):
                    self._socket.send_multipart(self._answer(self._socket.recv_multipart()))
        except zmq.ZMQError:
            logger.exception("the key checker ends")
        finally:
            self._socket.close(linger=0)

    def _answer(self, question: list[bytes]) -> list[bytes]:
        status, text, user = b"400", b"keys are needed", b""
        # version, request id, domain, address, identity, mechanism, credentials: one for CURVE
        if len(question) == 7 and (question[0], question[2], question[5], len(question[6])) == (b"1.0", DOMAIN, b"CURVE", KEY_BYTES):
            try:
                status, text, user = self._admit(z85.encode(question[6]).decode())
            except Exception:
                logger.exception("a key could not be checked")
                status, text = b"500", b"internal error"
        return [b"1.0", b"".join(question[1:2]), status, text, user, b""]


def guard(socket: zmq.Socket[bytes], secret_key: str) -> None:
    """Make a socket that is not bound yet one that asks for keys."""
    socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret_key.encode())
