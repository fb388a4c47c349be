"""A client that is not let in and that nobody calls."""

from __future__ import annotations

import time

import zmq

from tests.security.conftest import ADDRESS
from tests.support import wait_for
from trainbus.bus import endpoint, handshake
from trainbus.bus.broker import keystore
from trainbus.bus.broker.sockets import Sockets
from trainbus.bus.config import BusConfig
from trainbus.bus.credentials import secure
from trainbus.bus.endpoint import Endpoint


def test_a_socket_that_is_never_let_in_stops_no_other_socket_of_its_process(trainbus_home, monkeypatch):
    """Each attempt gives events; libzmq blocks the I/O thread that all sockets share when a monitor that nobody reads is full."""
    monkeypatch.setattr(endpoint, "RECONNECT_MS", 1)
    monkeypatch.setattr(endpoint, "RECONNECT_MAX_MS", 1)
    credentials, book = keystore.invite(trainbus_home, "known", "admin", ADDRESS)
    sockets = Sockets(BusConfig(), book, None)  # nobody answers for keys: every handshake fails
    where = credentials.connection()
    where.router = sockets.router_address
    monkeypatch.setenv("TRAINBUS_TOKEN", credentials.token())
    idle = Endpoint(zmq.DEALER)
    context = zmq.Context.instance()
    one, other = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    try:
        idle.open(where.router, lambda socket: secure(socket, where, trainbus_home))
        monitor = idle.sockets()[1]
        assert monitor.rcvhwm == 0
        end = time.monotonic() + 20
        wait_for(lambda: idle.watch() or idle.failed is not None)
        assert idle.failed.reason
        assert not idle.failed.over
        port = one.bind_to_random_port("tcp://127.0.0.1")
        other.connect(f"tcp://127.0.0.1:{port}")
        other.send(b"through")
        assert one.poll(max(0.0, end - time.monotonic()) * 1000)
    finally:
        idle.close()
        one.close(0)
        other.close(0)
        sockets.close()


def test_what_a_monitor_says_is_told_apart():
    """Refused for good, refused for now, broken off: each has its words; what is no failure has none."""
    refused = handshake.failed(zmq.EVENT_HANDSHAKE_FAILED_AUTH, 400)
    assert (refused.over, refused.refused) == (True, True)
    later = handshake.failed(zmq.EVENT_HANDSHAKE_FAILED_AUTH, 500)
    assert (later.over, later.refused) == (True, False)
    broken = handshake.failed(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, 32)
    assert (broken.over, broken.refused) == (False, False)
    assert handshake.failed(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, 1).over
    assert handshake.failed(zmq.EVENT_DISCONNECTED, 0) is None
