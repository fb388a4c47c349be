"""The journal as a file: described, checked and copied while a broker writes it."""

from __future__ import annotations

import json
import sqlite3
import threading

import pytest

from tests.broker.broker_bench import Bench, step
from tests.support import trainbus
from trainbus.bus import wire
from trainbus.bus.broker import maintenance, schema
from trainbus.bus.broker.journal import Journal
from trainbus.bus.broker.replay import read_events
from trainbus.errors import JournalError


@pytest.fixture
def filled(bench):
    """A bench whose journal is open and holds ten steps of a run."""
    bench.hello("s")
    bench.publish("s", *(step("s", number) for number in range(10)))
    return bench


def test_a_journal_is_described_while_it_is_written(filled):
    """Events, sizes, and which run and kind takes how much."""
    found = maintenance.describe(filled.path)
    assert (found.events, found.head, found.schema) == (10, 9, schema.SCHEMA)
    (topic,) = found.topics
    assert (topic.run, topic.kind, topic.events) == ("r", "step", 10)
    assert topic.bytes == sum(len(step("s", number)) for number in range(10))
    assert found.oldest < found.newest
    assert found.log_bytes > 0


def test_a_copy_is_a_whole_journal_of_that_moment(filled, tmp_path):
    """Readable by its owner alone; it opens as the same journal, and what came later is not in it."""
    copy = tmp_path / "backups" / "copy.db"
    assert maintenance.back_up(filled.path, copy) == copy.stat().st_size
    filled.publish("s", step("s", 10), first=10)
    assert copy.stat().st_mode & 0o777 == 0o600
    assert maintenance.faults(copy, thorough=True) == []
    assert [event.step for event in read_events(copy)] == list(range(10))
    restored = Journal(copy)
    assert restored.contents.journal == filled.journal.contents.journal
    restored.close()
    with pytest.raises(JournalError, match="is there already"):
        maintenance.back_up(filled.path, copy)
    assert not list(copy.parent.glob(".*")), "nothing is left of the attempt"


def test_a_copy_is_whole_whatever_is_committed_meanwhile(filled, tmp_path):
    """It holds a prefix of the history; the broker does not wait for it."""
    copying = threading.Event()

    def copy() -> None:
        for number in range(5):
            maintenance.back_up(filled.path, tmp_path / f"{number}.db")
        copying.set()

    thread = threading.Thread(target=copy)
    thread.start()
    first = 10
    while not copying.is_set():
        filled.publish("s", *(step("s", number) for number in range(first, first + 20)), first=first)
        first += 20
    thread.join()
    for number in range(5):
        assert maintenance.faults(tmp_path / f"{number}.db") == []
        found = [event.step for event in read_events(tmp_path / f"{number}.db")]
        assert found == list(range(len(found)))
        assert len(found) >= 10


def test_damage_is_named(tmp_path):
    """Events that are missing, and pages that are no longer what they were."""
    filled = Bench(tmp_path / "journal.db")
    filled.hello("s")
    filled.publish("s", *(step("s", number) for number in range(10)))
    filled.close()
    with sqlite3.connect(filled.path) as connection:
        connection.execute("DELETE FROM events WHERE offset=4")
    connection.close()
    assert maintenance.faults(filled.path) == ["9 events are there, 10 should be"]
    content = bytearray(filled.path.read_bytes())
    content[8_192:] = b"\xee" * (len(content) - 8_192)
    filled.path.write_bytes(content)
    assert maintenance.faults(filled.path)
    filled.path.write_bytes(b"no journal")
    with pytest.raises(JournalError, match="no SQLite database"):
        maintenance.describe(filled.path)


def test_the_commands_say_it_with_their_exit_codes(root, start, tmp_path):
    """On a live broker: show, check and backup; afterwards on a stopped one, and 5 when there is nothing or something is wrong."""
    assert trainbus("journal", "show").returncode == 5
    broker = start()
    client = broker.client()
    client.hello("s")
    client.publish("s", [step("s", number) for number in range(3)])
    assert json.loads(trainbus("journal", "show", "--json").stdout)["topics"][0]["events"] == 3
    done = trainbus("journal", "backup", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    assert maintenance.faults(tmp_path / json.loads(done.stdout)["file"]) == []
    assert client.call(wire.Status())
    broker.stop()
    assert trainbus("journal", "check").stdout.endswith("is whole.\n")
    assert "3 events up to offset 2" in trainbus("journal", "show").stdout
    with sqlite3.connect(root / "journal.db") as connection:
        connection.execute("UPDATE meta SET value=1 WHERE key='head'")
    connection.close()
    checked = trainbus("journal", "check", "--json")
    assert (checked.returncode, json.loads(checked.stdout)["ok"]) == (5, False)
