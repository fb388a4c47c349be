"""The link, in virtual time and without sockets (D3)."""

from __future__ import annotations

import random
from collections import deque

import pytest

from trainbus.bus import events, wire
from trainbus.bus.link import ACK_TIMEOUT, ECHO_SECONDS, REFUSED_PAUSE, WINDOW_MESSAGES, Link, State
from trainbus.bus.outbox import Hole


class Store:
    """Events in memory; seqs in ``missing`` are holes."""

    def __init__(self, count: int = 0, missing: frozenset[int] = frozenset()) -> None:
        self.next = count
        self.acknowledged = 0
        self.missing = missing

    def take(self, seq: int, events: int, size: int) -> list[bytes] | Hole:
        end = seq
        while end < self.next and end - seq < events and (end in self.missing) == (seq in self.missing):
            end += 1
        return Hole(end - 1, "dropped") if seq in self.missing else [b"%d" % number for number in range(seq, end)]

    def acknowledge(self, expected: int) -> None:
        self.acknowledged = max(self.acknowledged, expected)


def linked(store: Store, **options) -> Link:
    return Link(wire.Hello(source="s", run="r"), store, **options)


def welcomed(store: Store, *, expected: int = 0, journal: str = "j", **options) -> Link:
    link = linked(store, **options)
    link.connected(0.0)
    assert isinstance(link.poll(0.0), wire.Hello)
    link.receive(wire.Welcome(journal=journal, source="s", expected=expected), 0.0)
    return link


def ack(expected: int) -> wire.Ack:
    return wire.Ack(source="s", expected=expected)


def firsts(link: Link, now: float) -> list[int]:
    """First seqs of the batches that the link sends now."""
    sent = []
    while (message := link.poll(now)) is not None:
        assert isinstance(message, (wire.Events, wire.Skipped))
        sent.append(message.first)
    return sent


def test_nothing_is_sent_before_the_welcome_but_hello_with_growing_pauses() -> None:
    link = linked(Store(3))
    assert link.poll(0.0) is None
    link.connected(1.0)
    said = [now / 100 for now in range(100, 2000) if isinstance(link.poll(now / 100), wire.Hello)]
    assert said == [1.0, 1.25, 1.75, 2.75, 4.75, 8.75, 13.75, 18.75]


def test_sending_begins_where_the_broker_is() -> None:
    link = welcomed(Store(10), expected=4)
    message = link.poll(0.0)
    assert isinstance(message, wire.Events)
    assert (message.first, len(message.bodies)) == (4, 6)
    assert not link.settled
    link.receive(ack(10), 0.1)
    assert link.settled


def test_batches_and_window_are_bounded_and_an_acknowledgement_opens_the_window() -> None:
    store = Store(wire.MAX_BATCH_EVENTS * 30)
    link = welcomed(store)
    assert firsts(link, 0.0) == [n * wire.MAX_BATCH_EVENTS for n in range(WINDOW_MESSAGES)]
    link.receive(ack(2 * wire.MAX_BATCH_EVENTS), 0.1)
    assert len(firsts(link, 0.1)) == 2
    assert store.acknowledged == 2 * wire.MAX_BATCH_EVENTS


def test_an_incomplete_batch_waits_for_the_flush_and_a_full_one_does_not() -> None:
    store = Store(5)
    link = welcomed(store)
    assert link.poll(0.0, flush=False) is None
    store.next = wire.MAX_BATCH_EVENTS
    assert isinstance(link.poll(0.0, flush=False), wire.Events)


def test_without_acknowledgement_the_broker_is_greeted_again_and_everything_resent() -> None:
    """D3: a lost batch, or a lost Ack, is cured by a timeout."""
    link = welcomed(Store(5))
    assert firsts(link, 0.0) == [0]
    assert link.wake_at() == ACK_TIMEOUT
    assert link.poll(ACK_TIMEOUT - 0.01) is None
    assert isinstance(link.poll(ACK_TIMEOUT), wire.Hello)
    link.receive(wire.Welcome(journal="j", source="s", expected=0), 2.1)
    assert firsts(link, 2.1) == [0]
    assert link.wake_at() == 2.1 + 2 * ACK_TIMEOUT


def test_a_rewind_sends_again_from_there_and_its_echoes_do_not() -> None:
    """Each batch in flight behind a refused one is refused, too: one resend has to do."""
    store = Store(wire.MAX_BATCH_EVENTS * 4)
    link = welcomed(store)
    assert len(firsts(link, 0.0)) == 4
    for _ in range(4):
        link.receive(wire.Rewind(source="s", expected=0), 1.0)
    assert len(firsts(link, 1.0)) == 4
    link.receive(wire.Rewind(source="s", expected=0), 1.0 + ECHO_SECONDS / 2)
    assert firsts(link, 1.1) == []
    link.receive(wire.Rewind(source="s", expected=0), 1.0 + ECHO_SECONDS)
    assert len(firsts(link, 1.3)) == 4


def test_holes_are_declared_in_order_with_the_batches() -> None:
    link = welcomed(Store(10, missing=frozenset({0, 1, 5})))
    sent = []
    while (message := link.poll(0.0)) is not None:
        sent.append(message)
    assert [(type(m).__name__, m.first) for m in sent] == [("Skipped", 0), ("Events", 2), ("Skipped", 5), ("Events", 6)]
    assert sent[0] == wire.Skipped(source="s", first=0, last=1, reason="dropped")


def test_a_broken_connection_forgets_what_was_on_its_way() -> None:
    link = welcomed(Store(5))
    assert firsts(link, 0.0) == [0]
    link.disconnected(1.0)
    assert link.poll(1.0) is None
    link.connected(2.0)
    assert isinstance(link.poll(2.0), wire.Hello)
    link.receive(wire.Welcome(journal="j", source="s", expected=3), 2.0)
    assert firsts(link, 2.0) == [3]


def test_another_journal_gets_everything_again() -> None:
    link = welcomed(Store(5))
    assert firsts(link, 0.0) == [0]
    link.receive(ack(5), 0.1)
    assert link.settled
    link.receive(wire.Welcome(journal="other", source="s", expected=0), 1.0)
    assert not link.settled
    assert firsts(link, 1.0) == [0]


def test_a_late_welcome_of_the_same_journal_is_an_acknowledgement() -> None:
    store = Store(5)
    link = welcomed(store)
    assert firsts(link, 0.0) == [0]
    link.receive(wire.Welcome(journal="j", source="s", expected=5), 0.1)
    assert store.acknowledged == 5
    assert firsts(link, 0.1) == []


def test_messages_for_other_sources_change_nothing() -> None:
    store = Store(5)
    link = welcomed(store)
    assert firsts(link, 0.0) == [0]
    for message in (
        wire.Ack(source="t", expected=5),
        wire.Rewind(source="t", expected=0),
        wire.Welcome(journal="x", source="t", expected=0),
    ):
        link.receive(message, 0.1)
    assert (store.acknowledged, link.stats().in_flight, link.stats().journal) == (0, 1, "j")


def test_a_refusal_is_kept_for_people_and_retried_rarely() -> None:
    link = welcomed(Store(5))
    link.receive(wire.Failure(code="protocol", problem="speak protocol 2"), 1.0)
    assert link.problem == "speak protocol 2"
    assert link.poll(1.0 + REFUSED_PAUSE - 1) is None
    assert isinstance(link.poll(1.0 + REFUSED_PAUSE), wire.Hello)
    link.receive(wire.Welcome(journal="j", source="s", expected=0), 40.0)
    assert (link.problem, link.state) == ("", State.READY)


def test_a_broker_that_does_not_know_the_source_is_greeted_at_once() -> None:
    """A broker that was restarted with another journal has never heard of a source that goes on talking."""
    link = welcomed(Store(5))
    link.receive(wire.Failure(code="hello", problem="say hello"), 1.0)
    assert isinstance(link.poll(1.0), wire.Hello)


def test_a_welcome_in_another_protocol_is_refused() -> None:
    link = linked(Store(5))
    link.connected(0.0)
    link.poll(0.0)
    link.receive(wire.Welcome(protocol=99, journal="j", source="s", expected=0), 0.0)
    assert "protocol 99" in link.problem
    assert link.poll(0.1) is None


def test_beats_come_each_interval_and_only_when_welcomed() -> None:
    link = welcomed(Store(0), beat=lambda: wire.Beat(source="s", step=3), heartbeat_interval=1.0)
    said = [now / 10 for now in range(50) if isinstance(link.poll(now / 10), wire.Beat)]
    assert said == [0.0, 1.0, 2.0, 3.0, 4.0]
    link.disconnected(5.0)
    assert link.poll(9.0) is None


def test_bye_comes_once_when_everything_is_acknowledged() -> None:
    link = welcomed(Store(2))
    link.leave()
    assert firsts(link, 0.0) == [0]
    link.receive(ack(2), 0.1)
    assert link.poll(0.1) == wire.Bye(source="s")
    assert link.said_bye
    assert link.poll(0.1) is None


def test_a_command_is_handed_on_once_however_often_it_is_delivered() -> None:
    got: list[events.Command] = []
    link = welcomed(Store(0), on_command=got.append)
    for identity in ("a", "a", "b", "a"):
        link.receive(wire.Deliver(offset=7, body=events.encode(events.Command(id=identity, verb="pause"))), 0.0)
    assert [(command.id, command.offset) for command in got] == [("a", 7), ("b", 7)]


def test_an_unreadable_command_is_reported_and_survived() -> None:
    link = welcomed(Store(0))
    link.receive(wire.Deliver(offset=7, body=b"\xc1"), 0.0)
    assert "command" in link.problem


class Broker:
    """Takes batches that begin where it is; commits later; may forget what it has not committed."""

    def __init__(self) -> None:
        self.taken = 0
        self.committed = 0
        self.seen: list[int] = []

    def answer(self, message: wire.AnyMessage) -> wire.Message | None:
        if isinstance(message, wire.Hello):
            return wire.Welcome(journal="j", source="s", expected=self.committed)
        if isinstance(message, (wire.Events, wire.Skipped)):
            if message.first != self.taken:
                return wire.Rewind(source="s", expected=self.taken)
            skipped = range(message.first, message.last + 1) if isinstance(message, wire.Skipped) else ()
            self.seen[self.taken :] = skipped or map(int, message.bodies)
            self.taken = len(self.seen)
        return None


@pytest.mark.parametrize("seed", range(60))
def test_whatever_is_lost_delayed_or_restarted_everything_arrives_once_and_in_order(seed: int) -> None:
    """D3 under seeded faults: lost and late messages, broken connections, a broker that forgets what it has not committed."""
    chance = random.Random(seed)
    store, broker = Store(missing=frozenset({3, 4, 40})), Broker()
    link = linked(store)
    to_broker: deque[tuple[float, wire.Message]] = deque()
    to_link: deque[tuple[float, wire.Message]] = deque()
    now, faults_until = 0.0, 60.0
    while now < 400 and not (now > faults_until and link.settled and store.next):
        now += 0.05
        faulty = now < faults_until
        if now < faults_until and chance.random() < 0.3:
            store.next += chance.randrange(1, 8)
        if link.state is State.OFFLINE and chance.random() < 0.5:
            link.connected(now)
        if now < 40 and chance.random() < 0.01:  # later only messages are lost, also the last ones
            to_broker.clear(), to_link.clear()
            link.disconnected(now)
            if chance.random() < 0.5:
                broker.taken = broker.committed
        while (message := link.poll(now, flush=chance.random() < 0.8)) is not None:
            if not (faulty and chance.random() < 0.1):
                to_broker.append((now + chance.choice((0.0, 0.05, 0.6)) * faulty, message))
        while to_broker and to_broker[0][0] <= now:
            answer = broker.answer(to_broker.popleft()[1])
            if answer is not None and not (faulty and chance.random() < 0.1):
                to_link.append((now, answer))
        if chance.random() < 0.5 and broker.committed < broker.taken:
            broker.committed = broker.taken
            to_link.append((now + chance.choice((0.0, 3.0)) * faulty, wire.Ack(source="s", expected=broker.committed)))
        while to_link and to_link[0][0] <= now:
            link.receive(to_link.popleft()[1], now)
    assert link.settled
    assert broker.seen == list(range(store.next))
    assert store.acknowledged == store.next
