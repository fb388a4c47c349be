"""A broker with keys in this process, keys for each role, and raw sockets that use them."""

from __future__ import annotations

import threading
from typing import ClassVar

import msgspec
import pytest
import zmq
from msgspec import structs

from tests.support import wait_for
from trainbus.bus import wire
from trainbus.bus.broker import keystore
from trainbus.bus.broker.loop import run_broker
from trainbus.bus.client import Client
from trainbus.bus.config import BusConfig
from trainbus.bus.credentials import ROLES, VARIABLE, Credentials
from trainbus.bus.home import read_connection
from trainbus.errors import TrainbusError

ADDRESS = "127.0.0.1"


class Bus:
    """A broker in a thread, on a home of its own."""

    def __init__(self, root, **settings) -> None:
        self.root = root
        self.settings = BusConfig(**{"heartbeat_interval": 0.1, **settings})
        self._stop, self._ready, self.failed = threading.Event(), threading.Event(), []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        self._ready.wait(20)
        assert not self.failed, self.failed

    @property
    def connection(self):
        return read_connection(self.root)

    def invite(self, name: str, role: str = "observer", **options) -> Credentials:
        """Somebody's credentials, once the broker goes by them."""
        credentials, book = keystore.invite(self.root, name, role, ADDRESS, **options)
        self.follows(book)
        return credentials

    def revoke(self, name: str) -> None:
        self.follows(keystore.revoke(self.root, name))

    def rotate(self) -> None:
        self.follows(keystore.rotate(self.root))

    def follows(self, book: keystore.Book) -> None:
        """Wait until the broker goes by ``book``."""
        wait_for(lambda: (keys := self.keys()) is not None and keys.revision >= book.revision, what="the broker reads its keys")

    def keys(self) -> wire.KeysStatus | None:
        try:
            with Client(root=self.root, timeout=2.0) as client:
                return client.status().keys
        except TrainbusError:  # connections are just made anew
            return None

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()
        assert not self.failed, self.failed

    def _serve(self) -> None:
        try:
            run_broker(self.settings, self.root, ready=lambda _: self._ready.set(), stop=self._stop)
        except BaseException as error:
            self.failed.append(error)
            self._ready.set()
            raise


def use(socket: zmq.Socket, credentials: Credentials) -> None:
    """Give a socket somebody's keys."""
    socket.curve_serverkey = credentials.server_key.encode()
    socket.curve_publickey, socket.curve_secretkey = credentials.public_key.encode(), credentials.secret_key.encode()


class Peer:
    """A DEALER of a client with (or without) keys, and the answers that it gets."""

    living: ClassVar[list[Peer]] = []

    def __init__(self, context: zmq.Context, router: str, credentials: Credentials | None, **replaced: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.immediate = True
        if credentials is not None:
            use(self.socket, structs.replace(credentials, **{f"{name}_key": value for name, value in replaced.items()}))
        self.monitor = self.socket.get_monitor_socket()
        self.socket.connect(router)
        self._calls = 0
        # A monitor that is collected before its socket blocks the context's I/O thread with the next event, for ever.
        self.living.append(self)

    def call(self, request: wire.Request) -> wire.Reply | wire.Failure:
        self._calls += 1
        return self.say(wire.Call(id=self._calls, request=request))

    def say(self, message: wire.Message) -> wire.AnyMessage:
        self.socket.send(wire.encode(message))
        return self.hear()

    def hear(self) -> wire.AnyMessage:
        assert self.socket.poll(20_000), "no answer"
        return wire.decode_message(self.socket.recv())

    def status(self) -> wire.BrokerStatus:
        return msgspec.msgpack.decode(self.call(wire.Status()).result, type=wire.BrokerStatus)

    def outcome(self) -> str:
        """How the next handshake ends: the name of the monitor's event."""
        while self.monitor.poll(20_000):
            event = zmq.Event(int.from_bytes(self.monitor.recv_multipart()[0][:2], "little"))
            if "HANDSHAKE" in event.name:
                return event.name
        raise AssertionError("no handshake ended")


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    """No token of a test before."""
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def bus(trainbus_home):
    """A broker that has been keyed by its first invitation, to ``first``."""
    keystore.invite(trainbus_home, "first", "observer", ADDRESS)
    bus = Bus(trainbus_home)
    yield bus
    bus.stop()


@pytest.fixture
def context():
    context = zmq.Context()
    yield context
    for peer in Peer.living:
        peer.socket.disable_monitor()
    Peer.living.clear()
    context.destroy(linger=0)


@pytest.fixture
def peer(bus, context):
    """Makes peers: ``peer(credentials)``."""
    return lambda credentials, **replaced: Peer(context, bus.connection.router, credentials, **replaced)


@pytest.fixture
def everybody(bus):
    """Credentials by role."""
    return {role: bus.invite(role, role) for role in ROLES}
