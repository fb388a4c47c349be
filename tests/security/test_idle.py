"""A client that is not let in and that nobody calls."""

from __future__ import annotations

import socket

import zmq

from trainbus.bus import endpoint, handshake
from trainbus.bus.endpoint import Endpoint

MORE_THAN_FIT = 2_500
"""A monitor with libzmq's default high-water marks holds 2,000 events."""


def test_a_socket_that_is_never_let_in_stops_no_other_socket_of_its_process(monkeypatch):
    """Each attempt gives events; libzmq blocks the I/O thread that all sockets share when a monitor that nobody reads is full."""
    monkeypatch.setattr(endpoint, "RECONNECT_MS", 1)
    monkeypatch.setattr(endpoint, "RECONNECT_MAX_MS", 1)
    idle = Endpoint(zmq.DEALER)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(90)
        idle.open(f"tcp://127.0.0.1:{server.getsockname()[1]}")
        for _ in range(MORE_THAN_FIT):
            server.accept()[0].close()
    context = zmq.Context.instance()
    one, other = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    try:
        other.connect(f"tcp://127.0.0.1:{one.bind_to_random_port('tcp://127.0.0.1')}")
        other.send(b"through")
        assert one.poll(20_000)
    finally:
        idle.close()
        one.close(0)
        other.close(0)


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
