"""Who comes in, who doesn't, and who has to leave: real sockets against a real broker."""

from __future__ import annotations

import time

import msgspec
import pytest
import zmq

from tests.security.conftest import ADDRESS, Bus, Peer, use
from tests.support import wait_for
from trainbus.bus import wire
from trainbus.bus.broker import gate, keystore, zap
from trainbus.bus.broker.sockets import Sockets
from trainbus.bus.client import Client
from trainbus.bus.config import BusConfig
from trainbus.bus.credentials import VARIABLE
from trainbus.bus.events import Alert, Step, decode
from trainbus.bus.publisher import Publisher
from trainbus.bus.subscriber import Subscriber
from trainbus.errors import ConfigError, RefusedError, UnreachableError


def test_an_invited_client_comes_in_at_once(bus, peer):
    """Its key works from the moment at which it is written down."""
    credentials, _ = keystore.invite(bus.root, "fresh", "observer", ADDRESS)
    assert peer(credentials).status().head == -1


def test_a_stranger_comes_in_by_no_way(bus, peer):
    """Not without keys, not with keys of its own, not with those of another broker."""
    first = bus.invite("somebody")
    public, secret = (key.decode() for key in zmq.curve_keypair())
    assert peer(first).outcome() == "HANDSHAKE_SUCCEEDED"
    assert peer(None).outcome() != "HANDSHAKE_SUCCEEDED"
    assert peer(first, public=public, secret=secret).outcome() == "HANDSHAKE_FAILED_AUTH"
    assert peer(first, server=public).outcome() == "HANDSHAKE_FAILED_NO_DETAIL"
    assert peer(first, secret=secret).outcome() != "HANDSHAKE_SUCCEEDED"


def test_a_stranger_hears_nothing_of_the_fanout(bus, context):
    """XPUB asks for keys just as ROUTER does."""
    stranger = context.socket(zmq.SUB)
    stranger.subscribe(b"")
    stranger.connect(bus.connection.xpub)
    publisher = Publisher("r", root=bus.root)
    publisher.publish(Step(step=1))
    assert publisher.flush(20)
    assert publisher.close()
    assert not stranger.poll(500)


def test_commands_of_this_machine_work_without_a_token(bus):
    """The user who runs the bus notices nothing of its keys."""
    publisher = Publisher("r", root=bus.root)
    with Subscriber(root=bus.root, start="beginning") as events, Client(root=bus.root) as client:
        publisher.publish(Step(step=1))
        assert publisher.flush(20)
        assert events.next(20).step == 1
        assert client.delete_run("r", force=True) == 1
    assert publisher.close()


def test_keys_come_to_a_running_broker_and_training_goes_on(trainbus_home, context):
    """The first invitation turns them on; from then on nobody comes in without one."""
    bus = Bus(trainbus_home)
    try:
        publisher = Publisher("r", root=bus.root)
        publisher.publish(Step(step=1))
        assert publisher.flush(20)
        stranger = Peer(context, bus.connection.router, None)
        assert stranger.status().keys is None
        bus.invite("laptop")
        assert Peer(context, bus.connection.router, None).outcome() != "HANDSHAKE_SUCCEEDED"
        publisher.publish(Step(step=2))
        wait_for(lambda: publisher.flush(5))
        with Client(root=bus.root) as client:
            assert [event.step for event in client.events(kinds=["step"])] == [1, 2]
        assert publisher.close()
    finally:
        bus.stop()


def test_a_revoked_key_with_a_live_subscription_hears_nothing_any_more(bus, context, peer):
    """Neither its subscription nor its requests outlive the key; everybody else goes on."""
    guest, other = bus.invite("guest"), bus.invite("other")
    subscriptions = {}
    for credentials in (guest, other):
        socket = context.socket(zmq.SUB)
        use(socket, credentials)
        socket.subscribe(b"step")
        socket.connect(bus.connection.xpub)
        subscriptions[credentials.name] = socket
    talking = peer(guest)
    assert talking.status().head == -1
    publisher = Publisher("r", root=bus.root)
    heard = dict.fromkeys(subscriptions, 0)

    def publish_until_heard(*names: str) -> None:
        def all_heard() -> bool:
            publisher.publish(Step(step=1))
            publisher.flush(5)
            for name, socket in subscriptions.items():
                while socket.poll(20):
                    socket.recv()
                    heard[name] += 1
            return all(heard[name] for name in names)

        wait_for(all_heard)

    publish_until_heard("guest", "other")
    bus.revoke("guest")
    for name, socket in subscriptions.items():  # what was sent before counts not
        while socket.poll(50):
            socket.recv()
        heard[name] = 0
    publish_until_heard("other")
    for _ in range(5):
        publisher.publish(Step(step=2))
    assert publisher.flush(20)
    assert not subscriptions["guest"].poll(500)
    assert heard["guest"] == 0
    with pytest.raises(zmq.Again):  # no connection takes it
        talking.socket.send(wire.encode(wire.Call(id=99, request=wire.Status())), zmq.NOBLOCK)
    assert peer(guest).outcome() == "HANDSHAKE_FAILED_AUTH"
    assert publisher.close()


def test_a_reader_whose_key_is_revoked_is_told_so(bus, monkeypatch):
    """Instead of waiting for ever for events that will not come."""
    monkeypatch.setenv(VARIABLE, bus.invite("guest").token())
    with Subscriber(start="now") as events, Client() as client:
        assert client.status().head == -1
        monkeypatch.delenv(VARIABLE)
        bus.revoke("guest")
        with pytest.raises(RefusedError, match="revoked") as caught:
            events.next(20)
        assert caught.value.facts["code"] == "key"
        with pytest.raises(RefusedError, match="revoked"):
            client.status()


def test_a_key_that_expires_is_shut_out_too(bus, monkeypatch):
    """Not only at the next handshake: live connections end with it."""
    credentials = bus.invite("guest", valid_for=1.5)
    monkeypatch.setenv(VARIABLE, credentials.token())
    with Client() as client:
        assert client.status()
        monkeypatch.delenv(VARIABLE)

        def shut_out() -> bool:
            try:
                client.status()
            except RefusedError:
                return True
            return False

        wait_for(shut_out)


def test_another_role_counts_from_the_next_message(bus, monkeypatch):
    """A name that is given again with fewer rights has only those."""
    bus.invite("ops", "operator")
    bus.revoke("ops")
    monkeypatch.setenv(VARIABLE, bus.invite("ops", "observer").token())
    with Client() as client, pytest.raises(RefusedError, match="needs operator"):
        client.command("r", "stop")


def test_renewed_keys_shut_out_every_token_and_nobody_here(bus, monkeypatch):
    """This machine's own publisher goes on; the guest is refused."""
    guest = bus.invite("guest")
    publisher = Publisher("r", root=bus.root)
    publisher.publish(Step(step=1))
    assert publisher.flush(20)
    bus.rotate()
    publisher.publish(Step(step=2))
    wait_for(lambda: publisher.flush(5))
    assert publisher.close()
    monkeypatch.setenv(VARIABLE, guest.token())
    with Client(timeout=2.0) as client, pytest.raises(UnreachableError, match="key pair has been renewed"):
        client.status()


def test_a_publisher_without_the_right_keeps_its_events_and_says_why(bus, monkeypatch, caplog):
    """Training goes on, the spool keeps everything, and the log names the role that is needed."""
    monkeypatch.setenv(VARIABLE, bus.invite("guest").token())
    publisher = Publisher("r", root=bus.root)
    publisher.publish(Step(step=1))
    wait_for(lambda: "needs publisher" in publisher.stats().problem)
    assert not publisher.close(0.5)
    assert "needs publisher" in caplog.text


def alerts(peer: Peer) -> list[Alert]:
    """What the journal holds of them."""
    page = msgspec.msgpack.decode(peer.call(wire.History(kinds=["alert"])).result, type=wire.Page)
    return [decode(body, offset) for offset, body in page.events]


def test_when_the_key_checker_dies_nobody_new_is_let_in_and_there_is_an_alarm(bus, monkeypatch, peer):
    """Fail closed: those who are in stay in, and status and an alert say what has happened."""
    known = bus.invite("known")
    before = peer(known)
    assert before.status().keys.problem == ""

    def die(key):
        raise SystemExit

    monkeypatch.setattr(zap.z85, "encode", die)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    late = peer(known)  # a good key, at a checker that its question kills
    assert "died" in wait_for(lambda: before.status().keys.problem)
    assert late.outcome() == "HANDSHAKE_FAILED_NO_DETAIL"
    assert peer(known).outcome() == "HANDSHAKE_FAILED_NO_DETAIL"
    status = before.status()
    assert "died" in status.last_error
    (alert,) = wait_for(lambda: alerts(before))
    assert alert.severity == "critical"
    assert "nobody new is let in" in alert.message


def test_sockets_without_a_key_checker_let_nobody_in(trainbus_home, context):
    """CURVE alone authenticates nobody: without an answer the handshake must fail, not pass."""
    credentials, book = keystore.invite(trainbus_home, "known", "admin", ADDRESS)
    sockets = Sockets(BusConfig(), book, None)
    try:
        assert Peer(context, sockets.router_address, credentials).outcome() == "HANDSHAKE_FAILED_NO_DETAIL"
        assert Peer(context, sockets.xpub_address, credentials).outcome() == "HANDSHAKE_FAILED_NO_DETAIL"
    finally:
        sockets.close()


def test_while_the_keys_cant_be_read_nobody_new_is_let_in(bus, peer):
    """Those who are in stay; and when the keys are back, all is well again and the alert is cleared."""
    known = bus.invite("known")
    before = peer(known)
    assert before.status()
    file = keystore.book_file(bus.root)
    content = file.read_bytes()
    file.unlink()
    assert peer(known).outcome() == "HANDSHAKE_FAILED_NO_DETAIL"
    assert str(file) in wait_for(lambda: before.status().keys.problem)
    file.write_bytes(content)
    wait_for(lambda: not before.status().keys.problem)
    assert peer(known).status()
    wait_for(lambda: [alert.state for alert in alerts(before)] == ["raised", "cleared"])


def test_a_broker_whose_keys_are_damaged_does_not_start(trainbus_home):
    """It would have to let everybody in, or nobody."""
    keystore.invite(trainbus_home, "known", "admin", ADDRESS)
    keystore.book_file(trainbus_home).write_text("{")
    with pytest.raises(ConfigError, match="damaged"):
        gate.Gate(trainbus_home)


def test_an_identity_cant_be_stolen(bus, context, peer):
    """Whoever calls itself by another's routing id gets none of the answers meant for that one."""
    victim_keys, thief_keys = bus.invite("victim"), bus.invite("thief")
    sockets = []
    for credentials in (victim_keys, thief_keys):
        socket = context.socket(zmq.DEALER)
        socket.linger = 0
        socket.routing_id = b"the-same"
        use(socket, credentials)
        socket.connect(bus.connection.router)
        if not sockets:
            socket.send(wire.encode(wire.Call(id=1, request=wire.Status())))
            assert socket.poll(20_000)
            socket.recv()
        sockets.append(socket)
    victim, thief = sockets
    thief.send(wire.encode(wire.Call(id=7, request=wire.Status())))
    end = time.monotonic() + 20
    for number in range(2, 12):
        victim.send(wire.encode(wire.Call(id=number, request=wire.Status())))
        assert victim.poll(max(0.0, end - time.monotonic()) * 1000)
        assert wire.decode_message(victim.recv()).id == number
    assert not thief.poll(0)


def test_other_addresses_are_bound_only_with_keys(trainbus_home):
    """And what is no address is called so."""
    for address in ("0.0.0.0", "10.1.2.3"):
        with pytest.raises(ConfigError, match="trainbus keys invite"):
            Sockets(BusConfig(bind=address))
    _, book = keystore.invite(trainbus_home, "known", "admin", ADDRESS)
    for nonsense in ("example.org", "::", "*", "127.0.0.1:5"):
        with pytest.raises(ConfigError, match="no address"):
            Sockets(BusConfig(bind=nonsense), book)
    sockets = Sockets(BusConfig(bind="0.0.0.0"), book, gate.Door(trainbus_home).admit)
    assert sockets.router_address == f"tcp://127.0.0.1:{book.ports[0]}"
    sockets.close()
