"""D5: a subscriber gets every matching event once, in offset order, whatever happens to the fan-out, the connection and the broker."""

from __future__ import annotations

import asyncio
import itertools
import threading

import msgspec
import pytest

from tests.reading.helpers import read, steps, until
from tests.reading.stand_in import Memory, StandIn
from trainbus import AsyncSubscriber, Client, Subscriber
from trainbus.bus import events, wire
from trainbus.bus.home import connection_file
from trainbus.errors import ConfigError, JournalError, RefusedError


def numbers(found):
    return [event.step for event in found]


# --- where it starts ---


def test_from_the_beginning_history_goes_over_into_live_without_a_seam(broker):
    """Events of the journal come first, those committed meanwhile after them, and offsets are filled in."""
    broker.commit(steps(0, 9))
    with Subscriber() as subscriber:
        first = read(subscriber, 4)
        broker.commit(steps(10, 14))
        rest = read(subscriber, 11)
    assert numbers(first + rest) == list(range(15))
    assert [event.offset for event in first + rest] == list(range(15))


def test_from_now_only_what_is_committed_after_opening(broker):
    """`now` is fixed when the subscriber is opened, not when it is first read."""
    broker.commit(steps(0, 9))
    with Subscriber(start="now") as subscriber:
        broker.commit(steps(10, 11))
        assert numbers(read(subscriber, 2)) == [10, 11]


def test_from_an_offset_what_comes_after_it(broker):
    broker.commit(steps(0, 9))
    with Subscriber(start=6) as subscriber:
        assert numbers(read(subscriber, 3)) == [7, 8, 9]


def test_with_a_consumer_from_where_the_last_one_committed(broker):
    """The cursor outlives the subscriber, its state comes back with it, and `start` counts only for a new consumer."""
    broker.commit(steps(0, 9))
    with Subscriber(consumer="reader") as subscriber:
        assert numbers(read(subscriber, 4)) == [0, 1, 2, 3]
        subscriber.commit(state={"seen": b"4"})
        assert read(subscriber, 1)[0].step == 4  # read, but never committed
    with Subscriber(consumer="reader", start="now") as subscriber:
        assert subscriber.cursor.offset == 3
        assert subscriber.cursor.state == {"seen": b"4"}
        assert numbers(read(subscriber, 2)) == [4, 5]


def test_before_there_is_any_broker_it_waits_and_says_so(start):
    """No connection file yet: `next` comes back empty-handed, and delivery begins when a broker appears."""
    with Subscriber() as subscriber:
        assert subscriber.next(0.05) is None
        assert not subscriber.stats().connected
        broker = start()
        broker.commit(steps(0, 2))
        assert numbers(read(subscriber, 3)) == [0, 1, 2]
        assert subscriber.stats().connected


# --- losses ---


def test_dropped_frames_and_dropped_markers_are_made_good(broker):
    """Every third frame of the fan-out never arrives."""
    count = itertools.count()
    with Subscriber() as subscriber:
        broker.drops = lambda topic, payload: next(count) % 3 == 0
        for number in range(0, 300, 3):
            broker.commit([*steps(number, number + 1, "a"), *steps(number + 2, number + 2, "b")])
        found = read(subscriber, 300)
        assert numbers(found) == list(range(300))
        assert subscriber.next(0.2) is None
        assert subscriber.stats().losses > 0


def test_a_slow_subscriber_loses_frames_at_the_high_water_mark_and_no_events(start):
    """The broker drops what a reader doesn't take; it takes it from the journal later."""
    broker = start(high_water_mark=10)
    with Subscriber(high_water_mark=10) as subscriber:
        broker.commit(steps(0, 0))
        read(subscriber, 1)
        body = "x" * 20_000
        for number in range(1, 1_500):
            broker.commit([events.Sample(run="a", step=number, prompt=body)])
        assert numbers(read(subscriber, 1_499)) == list(range(1, 1_500))
        assert subscriber.stats().losses > 0


def test_a_loss_at_the_tail_is_noticed_while_nothing_happens(broker):
    """The last commit's whole fan-out was dropped: the idle markers reveal it."""
    with Subscriber() as subscriber:
        broker.commit(steps(0, 2), silently=True)
        assert numbers(read(subscriber, 3)) == [0, 1, 2]


def test_a_fan_out_that_falls_silent_is_connected_anew(broker, monkeypatch):
    """Not even the idle markers arrive any more, though the connection looks whole: the journal is asked, and then nothing was lost."""
    monkeypatch.setattr("trainbus.bus.reading.SILENCE_SECONDS", 0.2)
    with Subscriber() as subscriber:
        broker.commit(steps(0, 0))
        read(subscriber, 1)
        broker.drops = lambda topic, payload: True
        broker.commit(steps(1, 3))
        assert numbers(read(subscriber, 3)) == [1, 2, 3]
        assert subscriber.stats().reconnections > 0


def test_a_busy_broker_is_asked_again(broker):
    """Hundreds of readers came back at once: being refused a page for now is no reason to give up."""
    broker.commit(steps(0, 2))
    broker.busy = 2
    with Subscriber() as subscriber:
        assert numbers(read(subscriber, 3)) == [0, 1, 2]


# --- connections and brokers ---


def test_a_broker_that_restarts_on_other_ports_is_followed(start):
    """The connection file names new ports; what was committed while nobody listened is not missed."""
    memory = Memory()
    old = start(memory)
    with Subscriber() as subscriber:
        old.commit(steps(0, 4))
        assert numbers(read(subscriber, 5)) == [0, 1, 2, 3, 4]
        old.stop()
        until(lambda: subscriber.next(0.01) is None and not subscriber.stats().connected, "the loss is noticed")
        memory.events.append((5, "step.a", events.encode(events.Step(run="a", step=5))))
        new = start(memory)
        assert new.connection.router != old.connection.router
        new.commit(steps(6, 8))
        assert numbers(read(subscriber, 4)) == [5, 6, 7, 8]
        assert subscriber.stats().reconnections > 0


def test_another_journal_in_the_brokers_place_fails_loudly_and_stays_failed(start):
    """Its offsets mean nothing to a reader of the old one: no event is handed out, on this call or any later one."""
    start().commit(steps(0, 4))
    with Subscriber() as subscriber:
        read(subscriber, 5)
        start().commit(steps(100, 120))
        for _ in range(2):
            with pytest.raises(JournalError, match="this reader's place"):
                read(subscriber, 1)


def test_a_place_of_another_journal_is_refused_on_opening(broker):
    """Who keeps an offset keeps the journal's id beside it."""
    broker.commit(steps(0, 4))
    with pytest.raises(JournalError, match="in journal elsewhere"):
        Subscriber(start=2, journal="elsewhere")
    with pytest.raises(JournalError, match="ends at offset 4"):
        Subscriber(start=1_000)


def test_fixed_addresses_need_no_connection_file(broker, home):
    """A reader on another machine is told both addresses."""
    broker.commit(steps(0, 1))
    connection_file(home).unlink()
    with Subscriber(router=broker.connection.router, xpub=broker.connection.xpub) as subscriber:
        assert numbers(read(subscriber, 2)) == [0, 1]


# --- what it chooses ---


def test_kinds_and_runs_choose_from_history_and_from_live(broker):
    """Many topics interleaved: exactly those asked for arrive, in order, on both ways."""
    runs = [f"run-{number}" for number in range(5)]

    def batch(base):
        return [
            cls(run=run, step=base + place)
            for place, (run, cls) in enumerate(itertools.product(runs, (events.Step, events.Eval, events.Sample)))
        ]

    broker.commit(batch(0))
    choices = [((), ()), (("step",), ()), ((), ("run-1", "run-3")), (("step", "sample"), ("run-2",)), (("alert",), ())]
    opened = [Subscriber(kinds=kinds, runs=chosen) for kinds, chosen in choices]
    broker.commit(batch(100))
    for (kinds, chosen), subscriber in zip(choices, opened, strict=True):
        expected = [event for event in batch(0) + batch(100) if (not kinds or event.kind in kinds) and (not chosen or event.run in chosen)]
        assert numbers(read(subscriber, len(expected))) == numbers(expected)
        assert subscriber.next(0.1) is None
        subscriber.close()


def test_kinds_that_this_version_does_not_know_are_passed_on(broker):
    """Live and from history, by name or unasked."""
    body = msgspec.msgpack.encode({"kind": "novelty", "run": "a", "shade": "teal"})
    broker.commit_bodies([("novelty.a", body)])
    with Subscriber() as everything, Subscriber(kinds=["novelty"]) as chosen:
        broker.commit_bodies([("novelty.a", body)])
        for subscriber in (everything, chosen):
            found = read(subscriber, 2)
            assert [(event.kind, event.offset, event.fields) for event in found] == [
                ("novelty", 0, {"shade": "teal"}),
                ("novelty", 1, {"shade": "teal"}),
            ]


def test_heartbeats_come_only_to_those_who_ask(broker):
    with Subscriber(kinds=["heartbeat", "step"]) as asking, Subscriber() as other:
        until(lambda: asking.next(0.01) is None and asking.stats().connected, "connected")
        broker.heartbeat(events.Heartbeat(run="a", step=7))
        broker.commit(steps(0, 0))
        assert [event.kind for event in read(asking, 2)] == ["heartbeat", "step"]
        assert [event.kind for event in read(other, 1)] == ["step"]


def test_undecoded_events_are_pairs_of_offset_and_body(broker):
    broker.commit(steps(0, 1))
    with Subscriber(decode=False) as subscriber:
        assert [subscriber.next(5), subscriber.next(5)] == [(number, events.encode(event)) for number, event in enumerate(steps(0, 1))]


def test_an_event_that_cannot_be_read_is_an_error_and_the_next_call_goes_on(broker):
    """One poisoned body must not end a reader, nor vanish without a word."""
    broker.commit_bodies([("step.a", b"\xc1"), ("step.a", events.encode(events.Step(run="a", step=1)))])
    with Subscriber() as subscriber:
        with pytest.raises(msgspec.DecodeError):
            subscriber.next(5)
        assert subscriber.next(5).step == 1


# --- commits ---


def test_commits_go_together_while_one_is_on_its_way(broker):
    """A thousand commits without waiting: the last one counts, and the broker is asked far less often."""
    broker.commit(steps(0, 999))
    with Subscriber(consumer="reader") as subscriber:
        for event in itertools.islice(subscriber, 1_000):
            subscriber.commit(state={f"key-{event.step % 3}": b"%d" % event.step})
    assert broker.memory.cursors["reader"].offset == 999
    assert broker.memory.cursors["reader"].state == {"key-0": b"999", "key-1": b"997", "key-2": b"998"}
    assert sum(isinstance(request, wire.CommitCursor) for request in broker.asked) < 1_000


def test_a_commit_reaches_the_broker_that_comes_back(start):
    """The broker dies with a commit unanswered: it is made again, and closing waits for it."""
    memory = Memory()
    broker = start(memory)
    broker.commit(steps(0, 3))
    subscriber = Subscriber(consumer="reader")
    read(subscriber, 4)
    broker.mute = True
    assert not subscriber.commit()
    until(lambda: any(isinstance(request, wire.CommitCursor) for request in broker.asked), "the commit was read")
    broker.stop()
    assert memory.cursors["reader"].offset == -1
    restart = threading.Timer(0.1, lambda: start(memory))
    restart.start()
    assert subscriber.close(20)
    restart.join()
    assert memory.cursors["reader"].offset == 3


def test_closing_tells_when_commits_were_not_acknowledged(broker):
    broker.commit(steps(0, 0))
    subscriber = Subscriber(consumer="reader")
    read(subscriber, 1)
    broker.mute = True
    assert not subscriber.commit()
    assert subscriber.stats().uncommitted
    assert not subscriber.close(0.1)


def test_a_commit_of_a_forgotten_consumer_is_refused(broker):
    """Somebody dropped the cursor: the reader learns it instead of committing into the void."""
    broker.commit(steps(0, 0))
    with Subscriber(consumer="reader") as subscriber:
        read(subscriber, 1)
        with Client() as client:
            client.drop_cursor("reader")
        with pytest.raises(RefusedError, match="no consumer 'reader'"):
            subscriber.commit(wait=True)
        with pytest.raises(RefusedError):
            subscriber.close()


# --- mistakes ---


def test_mistakes_are_told_at_once():
    with pytest.raises(ConfigError, match=r"one name 'step'"):
        Subscriber("step")
    with pytest.raises(ConfigError, match="without xpub"):
        Subscriber(router="tcp://127.0.0.1:1")
    with pytest.raises(ConfigError, match="'yesterday' is no place"):
        Subscriber(start="yesterday")
    with pytest.raises(ConfigError, match="no address"):
        Subscriber(router="nonsense", xpub="nonsense")
    with Subscriber() as subscriber, pytest.raises(ConfigError, match="no durable cursor"):
        subscriber.commit()


# --- asyncio ---


async def test_async_for_reads_history_then_live_while_other_tasks_run(start):
    """The same stream behind `async for`; waiting blocks nobody."""
    broker = await asyncio.to_thread(start)
    broker.commit(steps(0, 4))
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticking = asyncio.create_task(tick())
    found = []
    async with AsyncSubscriber(kinds=["step"], consumer="reader") as subscriber:
        assert await subscriber.next(5) is not None
        asyncio.get_running_loop().call_later(0.05, lambda: broker.commit(steps(5, 9)))
        async for event in subscriber:
            found.append(event.step)
            await subscriber.commit()
            if event.step == 9:
                break
        assert await subscriber.next(0.01) is None
        assert await subscriber.commit(wait=True)
    ticking.cancel()
    assert found == list(range(1, 10))
    assert ticks > 10
    assert broker.memory.cursors["reader"].offset == 9


async def test_a_cancelled_wait_loses_nothing(start):
    """`next` is cancelled from outside, again and again, while events arrive."""
    broker = await asyncio.to_thread(start)
    async with AsyncSubscriber() as subscriber:
        found = []
        for number in range(30):
            broker.commit(steps(number, number))
            try:
                async with asyncio.timeout(0.001):
                    found.append(await subscriber.next())
            except TimeoutError:
                pass
        while (event := await subscriber.next(0.3)) is not None:
            found.append(event)
    assert numbers(found) == list(range(30))


async def test_an_async_subscriber_follows_a_restarted_broker(start):
    memory = Memory()
    (await asyncio.to_thread(start, memory)).commit(steps(0, 1))
    async with AsyncSubscriber() as subscriber:
        assert [(await subscriber.next(5)).step for _ in range(2)] == [0, 1]
        broker: StandIn = await asyncio.to_thread(start, memory)
        broker.commit(steps(2, 3))
        assert [(await subscriber.next(20)).step for _ in range(2)] == [2, 3]


# --- a flood ---


def test_history_then_live_while_a_publisher_floods(broker):
    """A late subscriber catches up with a journal that grows under its hands; drops included."""
    broker.commit(steps(0, 19_999))
    count = itertools.count()
    broker.drops = lambda topic, payload: next(count) % 50 == 0
    done = threading.Event()

    def flood():
        for number in range(20_000, 40_000, 20):
            broker.commit(steps(number, number + 19))
        done.set()

    flooding = threading.Thread(target=flood)
    with Subscriber() as subscriber:
        flooding.start()
        found = numbers(read(subscriber, 40_000))
    flooding.join()
    assert found == list(range(40_000))
