"""The broker's two sockets: set up before they are bound, on addresses that are allowed."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import zmq

from trainbus.bus import wire
from trainbus.bus.config import BusConfig
from trainbus.errors import ConfigError

ROUTER_HIGH_WATER_MARK = 1_000
"""Messages to one peer that wait for it. Beyond, they are dropped: acknowledgements are cumulative, calls time out."""

HANDSHAKE_MILLISECONDS = 5_000
LINGER_MILLISECONDS = 500
"""How long the last acknowledgements may take to leave when the broker stops."""

RECEIVE_BURST = 64
"""Messages taken from a socket before the loop looks at anything else."""


class Sockets:
    """ROUTER and XPUB, bound.

    Raises:
        ConfigError: An address that needs keys, or a port that is taken.
    """

    def __init__(self, settings: BusConfig) -> None:
        check_bind(settings.bind)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self.router = self._socket(zmq.ROUTER, ROUTER_HIGH_WATER_MARK)
            self.router.setsockopt(zmq.MAXMSGSIZE, wire.MAX_MESSAGE_BYTES)
            # A publisher that reconnects under its old identity takes over; without, the broker would go on talking to the dead one.
            self.router.setsockopt(zmq.ROUTER_HANDOVER, 1)
            self.router.setsockopt(zmq.ROUTER_MANDATORY, 0)
            self.xpub = self._socket(zmq.XPUB, settings.fanout_high_water_mark)
            self.xpub.setsockopt(zmq.MAXMSGSIZE, wire.MAX_MESSAGE_BYTES)
            self.router_address = _bind(self.router, settings.bind, settings.router_port, "router_port")
            self.xpub_address = _bind(self.xpub, settings.bind, settings.xpub_port, "xpub_port")
        except BaseException:
            self._context.destroy(linger=0)
            raise

    def receive(self) -> Iterator[tuple[bytes, list[bytes]]]:
        """Messages that are there now: the peer and the frames that it sent."""
        for _ in range(RECEIVE_BURST):
            try:
                peer, *frames = self.router.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            yield peer, frames

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
        self._context.destroy(linger=LINGER_MILLISECONDS)

    def _socket(self, kind: int, high_water_mark: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.SNDHWM, high_water_mark)
        socket.setsockopt(zmq.RCVHWM, ROUTER_HIGH_WATER_MARK)
        socket.setsockopt(zmq.LINGER, LINGER_MILLISECONDS)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MILLISECONDS)
        return socket


def check_bind(address: str) -> None:
    """Refuse an address that other machines reach.

    Raises:
        ConfigError: It is none of this machine's (IPv4) loopback addresses.
    """
    try:
        loopback = address == "localhost" or ipaddress.IPv4Address(address).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigError(
            f"[bus] bind = {address!r}: without keys the broker listens on this machine only.",
            hint='Use "127.0.0.1", and reach it from elsewhere through an ssh tunnel.',
            key="bus.bind",
            found=address,
            allowed="127.0.0.1, localhost",
        )


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
    return str(socket.getsockopt_string(zmq.LAST_ENDPOINT))
