"""What a hostile peer can cost: its own connection."""

from __future__ import annotations

import os
import random
import socket
from urllib.parse import urlsplit

import pytest
import zmq

from tests.security.conftest import Bus, use
from tests.support import wait_for
from trainbus.bus import wire
from trainbus.bus.broker import sockets as broker_sockets
from trainbus.bus.client import Client
from trainbus.bus.events import Step
from trainbus.bus.publisher import Publisher

GREETING = b"\xff" + b"\0" * 8 + b"\x7f" + b"\x03\x01"


def addresses(bus) -> list[tuple[str, int]]:
    return [(part.hostname, part.port) for part in map(urlsplit, (bus.connection.router, bus.connection.xpub))]


@pytest.fixture(params=["without keys", "with keys"])
def either(request, trainbus_home):
    """A bus without keys, and one with."""
    bus = Bus(trainbus_home)
    if request.param == "with keys":
        bus.invite("somebody")
    yield bus
    bus.stop()


def works(bus) -> None:
    """Events go in, and questions are answered."""
    publisher = Publisher("r", root=bus.root)
    publisher.publish(Step(step=1))
    assert publisher.flush(20)
    assert publisher.close()
    with Client(root=bus.root) as client:
        assert client.status().head >= 0


def test_garbage_on_the_ports_is_cut_off(either):
    """Random bytes, broken greetings, commands of absurd length."""
    shapes = random.Random(7)
    openings = [
        shapes.randbytes(2000),
        GREETING,
        GREETING + b"NULL".ljust(20, b"\0") + b"\0" * 32 + b"\x06" + (2**62).to_bytes(8, "big"),
        GREETING + b"CURVE".ljust(20, b"\0") + b"\0" * 32 + b"\x04\xc8" + b"\x05HELLO" + shapes.randbytes(194),
        GREETING + b"CURVE".ljust(20, b"\0") + b"\0" * 32 + b"\x04\x09" + b"\x08INITIATE",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
    peers = []
    for address in addresses(either):
        for opening in openings:
            peer = socket.create_connection(address, 5)
            peer.sendall(opening)
            peers.append(peer)
    works(either)
    for peer in peers:
        peer.close()
    works(either)


def test_half_open_connections_hold_nobody_up(either, monkeypatch):
    """Hundreds of peers that connect and say nothing: others come in beside them, and the broker lets go of them."""
    peers = [socket.create_connection(address, 5) for address in addresses(either) for _ in range(200)]
    works(either)
    for peer in peers[:3]:  # the broker gives up by itself
        peer.settimeout(broker_sockets.HANDSHAKE_MILLISECONDS / 1000 + 20)
        while peer.recv(4096):
            pass
    for peer in peers:
        peer.close()


def test_an_oversize_frame_costs_its_sender_the_connection(bus, peer):
    """Even one with a good key; everybody else goes on."""
    sender, other = peer(bus.invite("sender", "publisher")), peer(bus.invite("other"))
    assert sender.status()
    assert other.status()
    sender.socket.send(b"x" * (wire.MAX_MESSAGE_BYTES + 1))

    def cut() -> bool:
        while sender.monitor.poll(10):
            if zmq.Event(int.from_bytes(sender.monitor.recv_multipart()[0][:2], "little")) == zmq.Event.DISCONNECTED:
                return True
        return False

    wait_for(cut)
    assert other.status()
    works(bus)


def test_an_oversize_subscription_costs_its_sender_the_connection(bus, context):
    """Topics are short: nobody can fill the broker's memory with long ones."""
    guest = bus.invite("guest")
    subscriber = context.socket(zmq.SUB)
    subscriber.linger = 0
    use(subscriber, guest)
    monitor = subscriber.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
    subscriber.connect(bus.connection.xpub)
    assert monitor.poll(20_000)
    monitor.recv_multipart()
    subscriber.subscribe(b"x" * (broker_sockets.MAX_SUBSCRIPTION_BYTES + 1))
    assert monitor.poll(20_000), "still connected"
    works(bus)


def test_mangled_messages_of_a_client_with_a_key_are_refused(bus, peer):
    """Random bytes, cut messages, wrong types, several frames: each is answered or passed by, and the next one counts."""
    client = peer(bus.invite("sender", "publisher"))
    shapes = random.Random(11)
    good = wire.encode(wire.Events(source="s", first=0, bodies=[b"\x80"]))
    for _ in range(200):
        frame = bytearray(good)
        for _ in range(shapes.randint(1, 6)):
            frame[shapes.randrange(len(frame))] = shapes.randrange(256)
        client.socket.send(bytes(frame[: shapes.randint(0, len(frame))]))
        client.socket.send_multipart([os.urandom(8), bytes(frame)])
    number = 4242
    client.socket.send(wire.encode(wire.Call(id=number, request=wire.Status())))
    while not (isinstance(answer := client.hear(), wire.Reply) and answer.id == number):
        pass
    works(bus)
