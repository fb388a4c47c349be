"""Requests and their answers: what a person is told when there is none, what is asked again, and leases that are kept."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time

import msgspec
import pytest
import zmq

from tests.reading.helpers import steps, until
from tests.reading.stand_in import Memory
from trainbus import AsyncSubscriber
from trainbus.bus import wire
from trainbus.bus.client import AsyncClient, Client
from trainbus.bus.exchange import Exchange
from trainbus.bus.home import Connection, connection_file, write_connection
from trainbus.errors import ProtocolError, RefusedError, UnreachableError


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# --- nobody answers ---


def test_without_a_connection_file_the_answer_is_immediate_and_says_what_to_do(home):
    begin = time.monotonic()
    with Client(timeout=30) as client, pytest.raises(UnreachableError, match="No broker is known") as caught:
        client.status()
    assert time.monotonic() - begin < 15  # not the timeout
    assert "trainbus up" in caught.value.hint
    assert caught.value.facts["file"] == str(connection_file(home))


def test_a_stale_connection_file_names_the_dead_process_at_once(home):
    """The broker was killed and left its file behind: no use in waiting for it."""
    pid = dead_pid()
    write_connection(Connection(router="tcp://127.0.0.1:9", xpub="tcp://127.0.0.1:9", journal="j", pid=pid))
    begin = time.monotonic()
    with Client(timeout=30) as client, pytest.raises(UnreachableError, match=rf"process {pid}\) is dead") as caught:
        client.status()
    assert time.monotonic() - begin < 15
    assert caught.value.facts["alive"] is False
    assert "trainbus up" in caught.value.hint


def test_a_dead_broker_whose_supervisor_lives_is_waited_for(home, start):
    """The supervisor is about to restart it."""
    write_connection(Connection(router="tcp://127.0.0.1:9", xpub="tcp://127.0.0.1:9", journal="j", pid=dead_pid(), supervisor=os.getpid()))
    restart = threading.Timer(0.2, start)
    restart.start()
    with Client(timeout=20) as client:
        assert client.status().head == -1
    restart.join()


def test_a_broker_that_lives_and_does_not_answer_is_an_error_in_time(broker):
    broker.mute = True
    with Client(timeout=0.2) as client, pytest.raises(UnreachableError, match=r"did not answer within 0\.2 s \(asked: Status\)") as caught:
        client.status()
    assert caught.value.facts["pid"] == os.getpid()


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one(broker):
    """Answers carry the id of their request."""
    with Client(timeout=5) as client:
        broker.mute = True
        with pytest.raises(UnreachableError):
            client.call(wire.Runs(), list[wire.RunInfo], timeout=0.05)
        broker.mute = False
        assert client.status().head == -1


# --- refusals ---


def test_a_refusal_carries_problem_hint_and_code(broker):
    with Client() as client, pytest.raises(RefusedError, match="knows no run 'ghost'") as caught:
        client.command("ghost", "stop")
    assert caught.value.facts["code"] == "unknown"
    assert "trainbus runs list" in caught.value.hint


def test_another_protocol_is_told_as_such():
    """A broker of another version refuses with the code `protocol`, or answers what can't be read."""
    exchange = Exchange()
    refused, garbled, wrong = (exchange.ask(wire.Status(), wire.BrokerStatus) for _ in range(3))
    for _ in range(3):
        exchange.sent()
    exchange.received(wire.encode(wire.Failure(id=refused.id, code="protocol", problem="This broker speaks protocol 2.")))
    exchange.received(wire.encode(wire.Reply(id=wrong.id, result=msgspec.Raw(msgspec.msgpack.encode([1])))))
    exchange.received(b"\xc1")
    for ticket, text in ((refused, "protocol 2"), (wrong, "answer to Status"), (garbled, "can't be read")):
        with pytest.raises(ProtocolError, match=text):
            ticket.result()


def test_a_failure_without_id_ends_what_waits():
    """The broker could not read a message, so it can't say which: nobody waits in vain."""
    exchange = Exchange()
    ticket = exchange.ask(wire.Status(), wire.BrokerStatus)
    exchange.sent()
    exchange.received(wire.encode(wire.Failure(code="malformed", problem="Not a message.")))
    with pytest.raises(RefusedError, match="Not a message"):
        ticket.result()


# --- broken connections ---


def test_after_a_broken_connection_only_what_may_be_asked_twice_is_asked_again():
    """A command that is sent twice is two commands; its sender is told that nobody knows."""
    exchange = Exchange()
    status, command, runs = (
        exchange.ask(wire.Status(), wire.BrokerStatus),
        exchange.ask(wire.SendCommand(run="a", verb="stop"), dict),
        exchange.ask(wire.Runs(), list),
    )
    for _ in range(3):
        exchange.sent()
    exchange.disconnected()
    again = []
    while (frame := exchange.outgoing()) is not None:
        again.append(wire.decode_message(frame).id)
        exchange.sent()
    assert again == [status.id, runs.id]
    with pytest.raises(UnreachableError, match="may have been done"):
        command.result()


def test_a_request_reaches_the_broker_that_comes_back_elsewhere(start):
    """The broker dies while it owes an answer, and comes back on other ports."""
    memory = Memory()
    broker = start(memory)
    broker.commit(steps(0, 4))
    with Client(timeout=20) as client:
        client.status()
        broker.mute = True
        restart = threading.Thread(target=lambda: (until(lambda: len(broker.asked) == 2, "asked"), start(memory)))
        restart.start()
        assert client.status().head == 4
        restart.join()
        assert client.stats().repeated == 1
        assert client.stats().moves == 1


def test_a_command_that_timed_out_is_never_sent_later(start, home):
    """Nobody listened when it was asked for; the broker that comes up minutes later must not obey it."""
    memory = Memory()
    broker = start(memory)
    broker.commit(steps(0, 0))
    with Client(timeout=20) as client:
        client.status()
        broker.stop()
        with pytest.raises(UnreachableError):
            client.call(wire.SendCommand(run="a", verb="stop"), dict, timeout=0.3)
        start(memory)
        assert client.status().head == 0
        assert memory.commands == []


# --- history, consumers ---


def test_events_turns_pages_up_to_the_head_of_the_first_one(broker):
    """A journal that grows while it is read does not make the reading endless."""
    broker.commit(steps(0, 11_999))
    with Client() as client:
        found = client.events(kinds=["step"], after=99)
        first = next(found)
        broker.commit(steps(12_000, 12_009))
        rest = [event.offset for event in found]
    assert (first.offset, rest[0], rest[-1], len(rest)) == (100, 101, 11_999, 11_899)


def test_a_consumers_life(broker):
    broker.commit(steps(0, 9))
    with Client() as client:
        assert client.open_cursor("c", start=4).offset == 4
        client.commit_cursor("c", 7, {"a": b"1", "b": b"2"})
        client.commit_cursor("c", 6, {"a": None})
        assert client.open_cursor("c").offset == 7
        assert client.open_cursor("c").state == {"b": b"2"}
        assert client.reset_cursor("c", 1).offset == 1
        client.add_dead_letter("c", 5, 3, "it died")
        assert [(letter.offset, letter.attempts, letter.reason) for letter in client.dead_letters("c")] == [(5, 3, "it died")]
        client.drop_cursor("c")
        assert client.consumers() == []


# --- threads and tasks ---


def test_any_thread_may_ask(broker):
    """Calls of several threads take turns, and each gets its own answer."""
    broker.commit(steps(0, 99))
    wrong = []
    with Client() as client:

        def ask(after):
            for _ in range(50):
                page = client.history(after=after, limit=1)
                if page.events[0][0] != after + 1:
                    wrong.append(page)

        threads = [threading.Thread(target=ask, args=(after,)) for after in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert client.stats().answered == 300


async def test_tasks_do_not_wait_for_each_others_answers(start):
    """One request is never answered; the others of the same client are."""
    broker = await asyncio.to_thread(start)
    broker.commit(steps(0, 99))
    async with AsyncClient(timeout=20) as client:
        await client.status()
        broker.mute = True
        stuck = asyncio.create_task(client.status())
        while len(broker.asked) < 2:
            await asyncio.sleep(0.001)
        broker.mute = False
        pages = await asyncio.gather(*(client.history(after=after, limit=1) for after in range(50)))
        assert [page.events[0][0] for page in pages] == list(range(1, 51))
        assert [event.offset async for event in client.events(after=97)] == [98, 99]
        assert not stuck.done()
        stuck.cancel()


async def test_no_sign_of_a_socket_is_overlooked(start, monkeypatch):
    """Without the look at the connection file that would wake it anyway, each client learns of its connection and its answer."""
    monkeypatch.setattr("trainbus.bus.dealer.LOOK_SECONDS", 60)
    monkeypatch.setattr("trainbus.bus.reading.LOOK_SECONDS", 60)
    broker = await asyncio.to_thread(start)
    for number in range(30):
        async with AsyncClient(timeout=20) as client, AsyncSubscriber(start="now") as subscriber:
            assert (await client.status()).head == number - 1
            broker.commit(steps(number, number))
            assert (await subscriber.next(20)).step == number


# --- leases ---


def test_a_lease_is_renewed_while_it_is_held_and_given_back_after(broker):
    """Held for several times its ttl, it still keeps the opposite side out."""
    with Client() as client:
        with client.lease("ckpt", "reader", ttl=0.3) as lease:
            until(lambda: lease.renewals >= 6, "renewed for twice its ttl")
            assert not lease.lost
            lease.check()
            with pytest.raises(RefusedError, match="reader holds ckpt") as caught, client.lease("ckpt", "deleter", "exclusive"):
                pass
            assert caught.value.facts["code"] == "conflict"
            with client.lease("ckpt", "another reader"):
                assert len(client.leases()) == 2
        assert client.leases() == []


def test_a_lease_that_the_broker_forgot_is_flagged_as_lost(broker):
    with Client() as client, client.lease("ckpt", "reader", ttl=0.3) as lease:
        broker.do(broker.memory.leases.clear)
        until(lambda: lease.lost, "the loss is noticed")
        with pytest.raises(RefusedError, match="lease of reader on ckpt was lost") as caught:
            lease.check()
        assert caught.value.facts["code"] == "lost"


def test_a_lease_is_lost_when_the_broker_cannot_be_reached_for_its_ttl(broker):
    """The holder can't know what the broker would promise: after the ttl it must not go on."""
    with Client(timeout=0.5) as client, client.lease("ckpt", "reader", ttl=0.5) as lease:
        broker.mute = True
        until(lambda: lease.lost, "the promise runs out")


def test_a_lease_survives_a_restart_of_the_broker(start):
    memory = Memory()
    broker = start(memory)
    with Client() as client, client.lease("ckpt", "reader", ttl=3.0) as lease:
        broker.stop()
        broker = start(memory)
        until(lambda: any(isinstance(request, wire.RenewLease) for request in broker.asked), "renewed at the new broker")
        assert not lease.lost


async def test_an_async_lease_is_renewed_and_given_back(start):
    broker = await asyncio.to_thread(start)
    async with AsyncClient() as client:
        async with client.lease("ckpt", "reader", ttl=0.2) as lease:
            while lease.renewals < 4:
                assert not lease.lost
                await asyncio.sleep(0.01)
        assert broker.memory.leases == {}


def test_closing_leaves_no_socket_behind(broker):
    """Sockets have one owner, and he closes them."""
    with Client() as client:
        client.status()
        sockets = client._dealer.sockets()
        assert sockets
    assert all(socket.closed for socket in sockets)
    assert not zmq.Context.instance().closed
