"""Publisher, broker and readers together, with the broker killed under them: the history checker is the judge."""

from __future__ import annotations

import signal
import threading

from tests.reading.real_broker import RealBroker
from trainbus import Client, Publisher, Subscriber
from trainbus.bus.events import Step
from trainbus.testing.checker import HistoryChecker

COUNT = 6_000


def test_a_flood_survives_two_kills_of_the_broker_in_every_readers_eyes(home):
    """D3, D5: a reader from the beginning, one whose cursor is reopened half way, and a filtered one; the broker dies twice."""
    broker = RealBroker(home, heartbeat_interval=0.2)
    publisher = Publisher("a", root=home)

    def flood():
        for number in range(COUNT):
            publisher.publish(Step(step=number) if number % 3 else Step(step=number, run="b"))
            if number % 100 == 0:
                publisher.flush(0.01)

    flooding = threading.Thread(target=flood)
    delivered = {"everything": [], "only b": [], "cursor": []}
    everything = Subscriber(kinds=["step"], decode=False)
    only_b = Subscriber(kinds=["step"], runs=["b"], decode=False)
    cursor = Subscriber(kinds=["step"], consumer="reader", decode=False)
    flooding.start()

    def read(name, subscriber, count):
        while len(delivered[name]) < count:
            record = subscriber.next(30)
            assert record is not None, f"{name}: {subscriber.stats()}"
            delivered[name].append(record)

    for target in (COUNT // 3, 2 * COUNT // 3):
        read("everything", everything, target)
        broker.stop(number=signal.SIGKILL)
        broker = RealBroker(home, heartbeat_interval=0.2)
        read("cursor", cursor, target - 500)
        cursor.commit(delivered["cursor"][-10][0])  # the last nine come again
        assert cursor.close(20)
        cursor = Subscriber(kinds=["step"], consumer="reader", decode=False)
    read("everything", everything, COUNT)
    read("only b", only_b, COUNT // 3)
    read("cursor", cursor, COUNT + 18)
    flooding.join()
    assert publisher.close(30)

    checker = HistoryChecker()
    checker.published(publisher.source, COUNT)
    with Client() as client:
        page = client.history(limit=100_000)
        while not page.done:
            checker.journal(page.events)
            page = client.history(after=page.next, limit=100_000)
        checker.journal(page.events)
    checker.reader("everything", delivered["everything"], kinds=["step"])
    checker.reader("only b", delivered["only b"], kinds=["step"], runs=["b"])
    checker.reader("cursor", delivered["cursor"], kinds=["step"], at_least_once=True)
    findings = checker.check()
    assert findings.ok, findings.explain()
    for subscriber in (everything, only_b, cursor):
        subscriber.close()
    broker.stop()
