"""What holds with every broker: the same suite against the stand-in and against the real one, so that the stand-in stays honest."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading

import msgspec
import pytest

from tests.reading.helpers import read, steps, until
from tests.reading.real_broker import RealBroker
from tests.reading.stand_in import Memory, StandIn
from trainbus import AsyncSubscriber, Client, Subscriber
from trainbus.bus import events, wire
from trainbus.bus.home import read_connection
from trainbus.errors import JournalError, RefusedError, UnreachableError


class Place:
    """A home in which one kind of broker can be started, killed and started again."""

    def __init__(self, home, real):
        self.home, self.real = home, real
        self.memory = Memory()
        self.broker = None

    def start(self):
        self.stop()
        self.broker = RealBroker(self.home, heartbeat_interval=0.2) if self.real else StandIn(self.home, self.memory).start()
        return self.broker

    def stop(self, number=signal.SIGTERM):
        if self.broker is not None:
            self.broker.stop(**({"number": number} if self.real else {}))
            self.broker = None

    def forget_journal(self):
        self.stop()
        self.memory = Memory()
        for file in self.home.glob("journal.db*"):
            file.unlink()


@pytest.fixture(params=["stand-in", "real"])
def place(request, home):
    place = Place(home, request.param == "real")
    place.start()
    yield place
    place.stop()


def numbers(found):
    return [event.step for event in found]


def chosen(found, kind="step"):
    """The real broker journals events of its own as well (a lost run, say)."""
    return [event for event in found if event.kind == kind]


def test_history_then_live_in_offset_order(place):
    place.broker.commit(steps(0, 9))
    with Subscriber(kinds=["step"]) as subscriber:
        first = read(subscriber, 10)
        place.broker.commit(steps(10, 19))
        second = read(subscriber, 10)
    assert numbers(first + second) == list(range(20))
    assert [event.offset for event in first + second] == sorted({event.offset for event in first + second})


def test_many_topics_interleaved_are_filtered_and_ordered(place):
    runs = [f"run-{number}" for number in range(4)]

    def batch(base):
        kinds = (events.Step, events.Eval, events.Sample)
        return [cls(run=run, step=base + place) for place, (run, cls) in enumerate(itertools.product(runs, kinds))]

    place.broker.commit(batch(0))
    choices = [(("step",), ()), ((), ("run-1", "run-3")), (("step", "sample"), ("run-2",))]
    opened = [Subscriber(kinds=kinds, runs=names) for kinds, names in choices]
    place.broker.commit(batch(100))
    for (kinds, names), subscriber in zip(choices, opened, strict=True):
        expected = [event for event in batch(0) + batch(100) if (not kinds or event.kind in kinds) and (not names or event.run in names)]
        assert numbers(read(subscriber, len(expected))) == numbers(expected)
        subscriber.close()


def test_now_begins_at_opening(place):
    place.broker.commit(steps(0, 4))
    with Subscriber(kinds=["step"], start="now") as subscriber:
        place.broker.commit(steps(5, 6))
        assert numbers(read(subscriber, 2)) == [5, 6]


def test_a_killed_broker_is_followed_to_its_next_life(place):
    """kill -9, other ports, more events: nothing is missed and nothing comes twice; the cursor's commits get through."""
    place.broker.commit(steps(0, 4))
    with Subscriber(kinds=["step"], consumer="reader") as subscriber:
        assert numbers(read(subscriber, 5)) == list(range(5))
        place.stop(signal.SIGKILL)
        subscriber.commit()
        assert subscriber.next(0.1) is None
        place.start().commit(steps(5, 9))
        assert numbers(read(subscriber, 5)) == list(range(5, 10))
        assert subscriber.commit(wait=True, timeout=20)
    with Client() as client:
        assert client.open_cursor("reader").offset == subscriber.cursor.head + 5


def test_another_journal_in_the_same_home_fails_loudly(place):
    place.broker.commit(steps(0, 4))
    with Subscriber(kinds=["step"]) as subscriber:
        read(subscriber, 5)
        place.forget_journal()
        place.start().commit(steps(0, 30))
        with pytest.raises(JournalError, match="start anew"):
            read(subscriber, 1)


def test_a_consumer_goes_on_in_another_process(place):
    """Each process reads five events, commits them and dies without a goodbye."""
    place.broker.commit(steps(0, 19))
    program = (
        "import os, trainbus\n"
        "with trainbus.Subscriber(kinds=['step'], consumer='reader') as s:\n"
        "    found = [s.next(20) for _ in range(6)]\n"
        "    s.commit(found[4].offset, wait=True)\n"
        "    print(*(event.step for event in found[:5]), flush=True)\n"
        "    os._exit(9)\n"
    )
    found = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False).stdout.split() for _ in range(3)]
    assert [int(number) for part in found for number in part] == list(range(15))


def test_unknown_kinds_pass(place):
    """A kind that this version has never heard of goes through journal, history and fan-out unharmed."""
    body = {"kind": "novelty", "run": "a", "shade": "teal", "source": "s", "seq": 0, "time": 1}
    for _ in range(2):
        if place.real:
            body |= {"source": place.broker.source, "seq": place.broker.next_seq()}
            place.broker.commit_bodies([msgspec.msgpack.encode(body)], body["seq"])
        else:
            place.broker.commit_bodies([("novelty.a", msgspec.msgpack.encode(body))])
    with Subscriber(kinds=["novelty"]) as subscriber:
        found = read(subscriber, 2)
        assert [(event.kind, event.fields) for event in found] == [("novelty", {"shade": "teal"})] * 2


def test_a_late_subscriber_overtakes_a_flood(place):
    """It begins far behind a publisher that does not pause, and ends with every event once, in order."""
    place.broker.commit(steps(0, 9_999))

    def flood():
        for number in range(10_000, 20_000, 50):
            place.broker.commit(steps(number, number + 49))

    flooding = threading.Thread(target=flood)
    with Subscriber(kinds=["step"]) as subscriber:
        flooding.start()
        assert numbers(read(subscriber, 20_000)) == list(range(20_000))
    flooding.join()


async def test_async_for_against_every_broker(place):
    place.broker.commit(steps(0, 9))
    async with AsyncSubscriber(kinds=["step"]) as subscriber:
        found = []
        async for event in subscriber:
            found.append(event.step)
            if len(found) == 10:
                place.broker.commit(steps(10, 14))
            if len(found) == 15:
                break
    assert found == list(range(15))


def test_requests_and_refusals(place):
    place.broker.commit(steps(0, 99))
    with Client() as client:
        assert client.status().head >= 99
        assert client.status().journal == read_connection().journal
        assert numbers(chosen(client.events(kinds=["step"], after=49))) == [event.step for event in steps(50, 99)]
        assert [run.run for run in client.runs()] == ["a"]
        client.open_cursor("c", start=4)
        client.commit_cursor("c", 7, {"a": b"1", "b": b"2"})
        client.commit_cursor("c", 7, {"a": None})
        assert (client.open_cursor("c").offset, client.open_cursor("c").state) == (7, {"b": b"2"})
        assert client.reset_cursor("c", 1).offset == 1
        client.add_dead_letter("c", 5, 3, "it died")
        assert [(letter.offset, letter.attempts, letter.reason) for letter in client.dead_letters("c")] == [(5, 3, "it died")]
        client.drop_cursor("c")
        assert client.consumers() == []
        for attempt, code in (
            (lambda: client.command("ghost", "stop"), "unknown"),
            (lambda: client.supervise("plugins"), "no_supervisor"),
            (lambda: client.commit_cursor("ghost", 1), "unknown"),
        ):
            with pytest.raises(RefusedError) as caught:
                attempt()
            assert caught.value.facts["code"] == code
            assert caught.value.hint


def test_leases_exclude_each_other_and_expire(place):
    with Client() as client:
        with client.lease("ckpt", "reader", ttl=0.5) as lease:
            until(lambda: lease.renewals >= 6, "renewed for twice its ttl")
            with pytest.raises(RefusedError) as caught, client.lease("ckpt", "deleter", "exclusive"):
                pass
            assert caught.value.facts["code"] == "conflict"
            assert not lease.lost
        with client.lease("ckpt", "deleter", "exclusive"):
            assert [(lease.holder, lease.mode) for lease in client.leases()] == [("deleter", "exclusive")]
        assert client.leases() == []


@pytest.mark.parametrize("place", ["real"], indirect=True)
def test_a_frozen_broker_is_unreachable_and_then_forgiven(place):
    """SIGSTOP: requests fail in time, the subscriber waits; SIGCONT: both go on."""
    place.broker.commit(steps(0, 4))
    with Client(timeout=0.5) as client, Subscriber(kinds=["step"]) as subscriber:
        read(subscriber, 5)
        client.status()
        os.kill(place.broker.pid, signal.SIGSTOP)
        try:
            with pytest.raises(UnreachableError, match="did not answer"):
                client.status()
            assert subscriber.next(0.1) is None
        finally:
            os.kill(place.broker.pid, signal.SIGCONT)
        place.broker.commit(steps(5, 6))
        assert numbers(read(subscriber, 2)) == [5, 6]
        assert client.call(wire.Status(), wire.BrokerStatus, timeout=20).head >= 6
