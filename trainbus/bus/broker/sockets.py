"""The broker's two sockets: set up before they are bound, on addresses that are allowed."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import zmq

from trainbus.bus import wire
from trainbus.bus.broker.keystore import Book
from trainbus.bus.broker.zap import Admit, KeyChecker, guard
from trainbus.bus.config import BusConfig
from trainbus.errors import ConfigError

ROUTER_HIGH_WATER_MARK = 1_000
"""Messages to one peer that wait for it. Beyond, they are dropped: acknowledgements are cumulative, calls time out."""

HANDSHAKE_MILLISECONDS = 5_000
LINGER_MILLISECONDS = 500
"""How long the last acknowledgements may take to leave when the broker stops."""

RECEIVE_BURST = 64
"""Messages taken from a socket before the loop looks at anything else."""

MAX_SUBSCRIPTION_BYTES = 8 * 1024
"""A topic is a kind and a run, 512 characters each at most: nobody has to send XPUB anything longer."""


class Sockets:
    """ROUTER and XPUB, bound.

    Args:
        settings: The ``[bus]`` section.
        book: The keys; None: everybody is let in, on loopback only.
        admit: Decides about handshakes, in a thread of its own.

    Raises:
        ConfigError: An address that needs keys, or a port that is taken.
    """

    def __init__(self, settings: BusConfig, book: Book | None = None, admit: Admit | None = None) -> None:
        check_bind(settings.bind, keyed=book is not None)
        ports = book.ports if book is not None else (0, 0)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._secret_key = book.secret_key if book is not None else ""
        self._checker: KeyChecker | None = None
        try:
            if book is not None and admit is not None:
                self._checker = KeyChecker(self._context, admit)
            self.router = self._socket(zmq.ROUTER, ROUTER_HIGH_WATER_MARK)
            self.router.setsockopt(zmq.MAXMSGSIZE, wire.MAX_MESSAGE_BYTES)
            # A publisher that reconnects under its old identity takes over; without, the broker would go on talking to the dead one.
            # With keys it must not: anybody may call itself by another's identity, and would get the answers meant for that one.
            self.router.setsockopt(zmq.ROUTER_HANDOVER, 0 if self._secret_key else 1)
            self.router.setsockopt(zmq.ROUTER_MANDATORY, 0)
            self.xpub = self._socket(zmq.XPUB, settings.fanout_high_water_mark)
            self.xpub.setsockopt(zmq.MAXMSGSIZE, MAX_SUBSCRIPTION_BYTES)
            self.router_address = _bind(self.router, settings.bind, settings.router_port or ports[0], "router_port")
            self.xpub_address = _bind(self.xpub, settings.bind, settings.xpub_port or ports[1], "xpub_port")
        except BaseException:
            self._destroy(linger=0)
            raise

    @property
    def problem(self) -> str:
        """Why nobody new can be let in; empty when all is well."""
        return self._checker.problem if self._checker is not None else ""

    def receive(self) -> Iterator[tuple[bytes, list[bytes], str]]:
        """Messages that are there now: the peer, the frames that it sent, and the client whose key it has ("" without keys)."""
        for _ in range(RECEIVE_BURST):
            try:
                if not self._secret_key:
                    peer, *frames = self.router.recv_multipart(zmq.DONTWAIT)
                    yield peer, frames, ""
                    continue
                first, *rest = self.router.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            yield first.bytes, [frame.bytes for frame in rest], _user(rest)

    def subscriptions(self) -> Iterator[bytes]:
        """Topics that somebody has just subscribed to; reading them keeps the socket's queue empty."""
        for _ in range(RECEIVE_BURST):
            try:
                frame = self.xpub.recv(zmq.DONTWAIT)
            except zmq.Again:
                return
            if frame.startswith(b"\x01"):
                yield frame[1:]

    def send(self, peer: bytes, frame: bytes) -> None:
        """Send to a peer; dropped when it is gone or does not read."""
        try:
            self.router.send_multipart((peer, frame), zmq.DONTWAIT)
        except zmq.Again:
            return

    def fan(self, frame: bytes) -> None:
        """Send to the subscribers of the frame's topic; dropped for those that don't keep up."""
        self.xpub.send(frame, zmq.DONTWAIT)

    def close(self) -> None:
        """Close both; what was sent before has `LINGER_MILLISECONDS` to leave."""
        self._destroy(LINGER_MILLISECONDS)

    def _destroy(self, linger: int) -> None:
        if self._checker is not None:
            self._checker.close()
        self._context.destroy(linger=linger)

    def _socket(self, kind: int, high_water_mark: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.SNDHWM, high_water_mark)
        socket.setsockopt(zmq.RCVHWM, ROUTER_HIGH_WATER_MARK)
        socket.setsockopt(zmq.LINGER, LINGER_MILLISECONDS)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MILLISECONDS)
        if self._secret_key:
            guard(socket, self._secret_key)
        return socket


def check_bind(address: str, *, keyed: bool = False) -> None:
    """Refuse an address that other machines reach, unless there are keys.

    Raises:
        ConfigError: It is none of this machine's (IPv4) loopback addresses, and there are no keys; or it is no address.
    """
    if not keyed and not is_loopback(address):
        raise ConfigError(
            f"[bus] bind = {address!r}: without keys the broker listens on this machine only.",
            hint="`trainbus keys invite NAME --role observer --host ADDRESS` makes the first key, and then this is allowed. "
            'Or use "127.0.0.1", and reach it from elsewhere through an ssh tunnel.',
            key="bus.bind",
            found=address,
            allowed="127.0.0.1, localhost",
        )
    try:
        ipaddress.IPv4Address("127.0.0.1" if address == "localhost" else address)
    except ValueError:
        raise ConfigError(
            f"[bus] bind = {address!r} is no address.",
            hint='Give the IPv4 address of one of this machine\'s network cards, "0.0.0.0" for all, or "127.0.0.1" for none.',
            key="bus.bind",
            found=address,
            allowed="an IPv4 address, or localhost",
        ) from None


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine itself. Other names are not looked up."""
    try:
        return host == "localhost" or ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False


def _user(frames: list[zmq.Frame]) -> str:
    """The client that the key checker named. No name, no rights."""
    try:
        return str(frames[-1].get("User-Id")) if frames else ""
    except zmq.ZMQError:
        return ""


def _bind(socket: zmq.Socket[bytes], address: str, port: int, key: str) -> str:
    host = "127.0.0.1" if address == "localhost" else address
    try:
        socket.bind(f"tcp://{host}:{port or '*'}")
    except zmq.ZMQError as error:
        reason = "is in use" if error.errno == zmq.EADDRINUSE else f"can't be bound: {error.strerror}"
        raise ConfigError(
            f"[bus] {key} = {port}: port {port} on {address} {reason}.",
            hint=f"Choose another {key}, or 0 to let the system choose; `trainbus status` shows whether a broker runs already.",
            key=f"bus.{key}",
            found=port,
        ) from error
    bound = str(socket.getsockopt_string(zmq.LAST_ENDPOINT)).rpartition(":")[2]
    # The wildcard is where the broker listens, but no address to go to.
    return f"tcp://{'127.0.0.1' if host == '0.0.0.0' else host}:{bound}"
