"""The broker as a process: started, flooded, killed, frozen, refused, with its disk full."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from contextlib import contextmanager

import msgspec
import pytest
import zmq

from tests.broker.broker_bench import body, step
from tests.broker.broker_process import BrokerProcess, RawClient, fill, small_disk, wait_for
from trainbus.bus import events, home, wire
from trainbus.bus.broker import loop, retention
from trainbus.bus.broker.journal import Journal
from trainbus.bus.broker.loop import run_broker
from trainbus.bus.broker.worker import Worker
from trainbus.bus.config import BusConfig
from trainbus.errors import UnreachableError


def steps(source: str, first: int, count: int) -> list[bytes]:
    return [step(source, seq) for seq in range(first, first + count)]


def test_a_started_broker_is_found_by_its_connection_file_and_gone_after_a_clean_stop(root, start):
    broker = start()
    file = home.connection_file(root)
    assert home.read_connection(root) == broker.connection
    assert file.stat().st_mode & 0o777 == 0o600
    status = broker.client().status()
    assert (status.pid, status.router, status.journal_path) == (broker.pid, broker.connection.router, str(root / "journal.db"))
    assert status.journal == broker.connection.journal
    assert broker.stop() == 0
    with pytest.raises(UnreachableError):
        home.read_connection(root)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_sent_before_a_stop_is_committed(start, number):
    """The broker reads what lies in its socket before it ends; frozen, it can't have read it before."""
    broker = start()
    client = broker.client()
    client.hello("s")
    client.publish("s", steps("s", 0, 500))
    broker.send(signal.SIGSTOP)
    client.send(wire.Events(source="s", first=500, bodies=steps("s", 500, 500)))
    broker.send(number)
    broker.send(signal.SIGCONT)
    assert client.receive(wire.Ack).expected == 1_000
    assert broker.ended() == 0
    assert start().client().hello("s").expected == 1_000


def test_events_reach_journal_and_subscribers(start):
    client = start().client()
    client.subscribe(b"step.")
    client.hello("s")
    client.publish("s", steps("s", 0, 10))
    seen = []
    while len(seen) < 10:
        topic, payload = client.frame()
        if topic == b"step.r":
            seen += payload.events
    assert seen == [(seq, step("s", seq)) for seq in range(10)]
    assert [event.seq for event in client.history()] == list(range(10))


def test_d2_d3_nothing_acknowledged_is_lost_when_the_broker_is_killed_in_a_flood(start):
    """Three times kill -9 in the middle; the publisher goes on where the journal is. Each event is there once, in order."""
    total, acknowledged, broker = 30_000, 0, None
    for life in range(4):
        broker = start()
        client = broker.client()
        expected = client.hello("s").expected
        assert expected >= acknowledged, "acknowledged means in the journal"
        sent = expected
        while sent < total:
            client.send(wire.Events(source="s", first=sent, bodies=steps("s", sent, 250)))
            sent += 250
            while client.dealer.poll(0):
                acknowledged = max(acknowledged, wire.decode_message(client.dealer.recv()).expected)
            if life < 3 and sent - expected > 7_000 and acknowledged > expected:
                break
        if life < 3:
            broker.stop(signal.SIGKILL)
    while acknowledged < total:
        acknowledged = client.receive(wire.Ack).expected
    history = client.history(limit=10_000)
    assert [event.seq for event in history] == list(range(total))
    assert [event.offset for event in history] == list(range(total))


def test_d8_on_a_full_disk_nothing_is_acknowledged_and_afterwards_nothing_is_missing(tmp_path):
    """A real small file system: status goes on answering, and says why nothing moves."""
    with small_disk(tmp_path / "disk", 8) as disk:
        broker = BrokerProcess(disk)
        try:
            client = broker.client()
            client.hello("s")
            client.publish("s", steps("s", 0, 100))
            fill(disk / "ballast")
            client.send(wire.Events(source="s", first=100, bodies=steps("s", 100, 2_000)))
            assert client.receive((wire.Rewind, wire.Ack)) == wire.Rewind(source="s", expected=100)
            status = client.status()
            assert (status.head, status.commit_failures >= 1) == (99, True)
            assert "full" in status.last_error
            (disk / "ballast").unlink()
            client.publish("s", steps("s", 100, 2_000), first=100)
            assert [event.seq for event in client.history()] == list(range(2_100))
        finally:
            broker.close()


def test_l12_events_sent_while_the_journal_is_locked_are_there_once_it_is_free(root, start):
    client = start().client()
    client.hello("s")
    client.publish("s", steps("s", 0, 5))
    other = sqlite3.connect(root / "journal.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    client.send(wire.Events(source="s", first=5, bodies=steps("s", 5, 5)))
    wait_for(lambda: client.status().commit_failures, what="a failed commit")
    other.execute("ROLLBACK")
    other.close()
    client.publish("s", steps("s", 5, 5), first=5)
    assert [event.seq for event in client.history()] == list(range(10))


def test_d7_a_frozen_broker_loses_neither_events_nor_runs(start):
    """SIGSTOP for longer than lost_after: signs of life that waited in the socket count."""
    broker = start(lost_after=1.5, heartbeat_interval=0.1)
    client = broker.client()
    client.hello("s", owner=True)
    client.publish("s", [body(events.RunStarted(name="r"), "s", 0), *steps("s", 1, 4)])
    broker.send(signal.SIGSTOP)
    pause = threading.Event()
    for seq in range(5, 25):
        client.send(wire.Events(source="s", first=seq, bodies=steps("s", seq, 1)))
        pause.wait(0.1)
    broker.send(signal.SIGCONT)
    while client.receive(wire.Ack).expected < 25:
        pass
    assert client.history(kinds=["run_ended"]) == []
    wait_for(lambda: client.history(kinds=["run_ended"]), what="the lost run, now that the publisher is really silent")


def test_a_broker_ends_when_the_process_that_started_it_is_gone(root):
    """The lifeline: a pipe whose other end the supervisor holds."""
    read, write = os.pipe()
    broker = BrokerProcess(root, lifeline=read)
    os.close(read)
    try:
        assert broker.connection.supervisor == os.getpid()
        os.close(write)
        assert broker.ended() == 0
        with pytest.raises(UnreachableError):
            home.read_connection(root)
    finally:
        broker.close()


# --- what is refused ------------------------------------------------------------------------------------


def failed(root, **settings) -> tuple[int, str]:
    broker = BrokerProcess(root, **settings)
    try:
        assert broker.connection is None
        return broker.ended(), broker.errors()
    finally:
        broker.close()


def test_d10_a_second_broker_is_refused_in_words_and_harms_nothing(root, start):
    first = start()
    code, words = failed(root)
    assert code == 5
    assert f"process {first.pid}" in words
    assert "Traceback" not in words
    assert home.read_connection(root) == first.connection
    first.client().status()


def test_a_port_in_use_is_named_with_its_key(root):
    with zmq.Context() as context, context.socket(zmq.REP) as taken:
        port = taken.bind_to_random_port("tcp://127.0.0.1")
        code, words = failed(root, router_port=port)
    assert code == 2
    assert str(port) in words
    assert "router_port" in words
    assert "Traceback" not in words
    assert not home.connection_file(root).exists()


@pytest.mark.parametrize("address", ["0.0.0.0", "192.168.1.5", "::", "*", "example.org"])
def test_a123_an_address_that_others_reach_is_refused_without_keys(root, address):
    code, words = failed(root, bind=address)
    assert code == 2
    assert "without keys" in words
    assert "127.0.0.1" in words


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1", "127.0.0.2"])
def test_a123_every_loopback_address_will_do(start, address):
    broker = start(bind=address)
    assert broker.client().status().pid == broker.pid


@pytest.mark.parametrize("settings", [{"lost_after": -1}, {"bnid": "x"}, {"router_port": "http"}])
def test_wrong_settings_are_refused_in_words(root, settings):
    code, words = failed(root, **settings)
    assert code == 2
    assert next(iter(settings)) in words
    assert "Traceback" not in words


def test_a_journal_of_a_newer_version_ends_the_start_with_a_clear_message(root, start):
    start().stop()
    connection = sqlite3.connect(root / "journal.db")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    code, words = failed(root)
    assert code == 5
    assert "version 99" in words
    assert "upgrade" in words


@pytest.mark.parametrize("frames", [[b""], [b"\xc1"], [b"x" * 100_000], [b"a", b"b"], [wire.encode({"type": "hello"})]])
def test_garbage_costs_its_sender_an_answer_and_nobody_else_anything(start, frames):
    client = start().client()
    client.dealer.send_multipart(frames)
    failure = client.receive(wire.Failure)
    assert (failure.id, failure.code) == (-1, "protocol")
    client.hello("s")
    client.publish("s", steps("s", 0, 3))


def test_a_frame_beyond_the_limit_costs_its_sender_the_connection(start):
    """ZMQ_MAXMSGSIZE: the others go on."""
    broker = start()
    client, other = broker.client(), broker.client()
    client.dealer.send(bytes(wire.MAX_MESSAGE_BYTES + 1))
    other.hello("s")
    other.publish("s", steps("s", 0, 3))


def test_another_protocol_version_is_named_on_both_sides(start):
    """Also when the newer message can't be decoded at all."""
    client = start().client()
    newer = wire.PROTOCOL + 1
    client.send(wire.Hello(source="s", run="r", protocol=newer))
    hello = client.receive(wire.Failure)
    client.send(wire.Call(id=3, request=wire.Status(), protocol=newer))
    call = client.receive(wire.Failure)
    client.dealer.send(wire.encode({"type": "call", "id": 4, "protocol": newer, "request": {"op": "teleport"}}))
    unknown = client.receive(wire.Failure)
    for failure, number in ((hello, -1), (call, 3), (unknown, 4)):
        assert (failure.id, failure.code) == (number, "protocol")
        assert f"protocol {newer}" in failure.problem
        assert f"protocol {wire.PROTOCOL}" in failure.problem


# --- in a thread ----------------------------------------------------------------------------------------


@contextmanager
def threaded(root, settings: BusConfig, **options):
    """A broker in a thread, and a client of it."""
    ready: list[home.Connection] = []
    stop = threading.Event()
    thread = threading.Thread(target=run_broker, args=(settings, root), kwargs={"ready": ready.append, "stop": stop, **options})
    thread.start()
    try:
        wait_for(lambda: ready or not thread.is_alive())
        client = RawClient(ready[0].router)
        yield client
        client.close()
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def test_a_broker_runs_in_a_thread_until_it_is_told_to_stop(root):
    """For tests and for programs that bring their own bus."""
    with threaded(root, BusConfig()) as client:
        assert client.status().pid == os.getpid()
    assert not home.connection_file(root).exists()


def test_the_connection_file_of_a_later_broker_is_left_alone(root, start):
    broker = start()
    other = msgspec.structs.replace(broker.connection, pid=1, started=broker.connection.started + 1)
    home.write_connection(other, root)
    broker.stop()
    assert home.read_connection(root) == other


def test_the_loop_carries_retention_out(root, monkeypatch):
    """The plan is made in the reader's thread, the deletion by the committer's."""
    monkeypatch.setattr(retention, "INTERVAL", 0.05)
    with threaded(root, BusConfig(journal_max_age=3600.0)) as client:
        client.hello("s")
        client.publish("s", steps("s", 0, 10))  # stamped with the first seconds of 1970
        wait_for(lambda: client.status().events == 0, what="the deletion of ten old events")
        assert client.status().head == 9


def test_more_pages_than_can_wait_are_refused_for_now(root, monkeypatch):
    monkeypatch.setattr(loop, "MAX_PAGES_WAITING", 0)
    with threaded(root, BusConfig()) as client:
        failure = client.call(wire.History())
        assert (failure.code, bool(failure.hint)) == ("busy", True)


def test_an_error_that_nobody_expected_ends_the_process_instead_of_hanging_it():
    """A worker's exception is raised again in the loop."""
    woken = threading.Event()
    worker = Worker("test", woken.set)
    worker.submit(lambda: {}["missing"])
    assert woken.wait(20)
    with pytest.raises(KeyError):
        worker.finish()
    assert worker.close(20)


@pytest.fixture
def committing(monkeypatch):
    """Names of the threads in which batches with events were committed."""
    names: list[str] = []
    append = Journal.append

    def recorded(self, batch):
        if batch.rows:
            names.append(threading.current_thread().name)
        return append(self, batch)

    monkeypatch.setattr(Journal, "append", recorded)
    return names


def test_small_batches_are_committed_without_a_change_of_threads_and_large_ones_beside_receiving(root, committing):
    """Latency for few events, group commit for many."""
    with threaded(root, BusConfig()) as client:
        client.hello("s")
        client.publish("s", steps("s", 0, 1))
        client.publish("s", steps("s", 1, loop.SMALL_BATCH + 1), first=1)
    small, large = committing
    assert (small == "trainbus-committer", large == "trainbus-committer") == (False, True)


def test_after_a_slow_commit_the_disk_holds_up_no_answers(root, committing, monkeypatch):
    """What may take long is handed to the committer, so that status and history are served meanwhile."""
    monkeypatch.setattr(loop, "SLOW_COMMIT_SECONDS", -1.0)
    monkeypatch.setattr(loop, "HAND_OVER_SECONDS", 3600.0)
    with threaded(root, BusConfig()) as client:
        client.hello("s")
        for seq in range(3):
            client.publish("s", steps("s", seq, 1), first=seq)
    assert [name == "trainbus-committer" for name in committing] == [False, True, True]
