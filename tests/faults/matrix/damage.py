"""Rows: files that a crash tore, and bits that flipped in them."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.broker.broker_bench import step
from tests.broker.broker_process import BrokerProcess, wait_for
from tests.conftest import ROOT
from tests.faults.matrix.row import row
from tests.faults.matrix.stage import Stage
from tests.faults.orphans import EVENTS, body, segment_of, set_published, source_of
from trainbus.bus import wire
from trainbus.bus.broker.journal import Journal
from trainbus.bus.segment import HEADER_BYTES, RECORD_BYTES
from trainbus.testing.checker import HistoryChecker

ROUNDS = 20
"""A round takes every twentieth byte offset of the journal's tail: twenty rounds take all."""
FLIPS = 100
ACKNOWLEDGED, LAST = 50, 10


def torn(content: bytes, cut: int, stage: Stage) -> bytes:
    """What was written up to ``cut``, and behind it what may be there: nothing yet, or what an earlier use of the file left."""
    rest = len(content) - cut
    return content[:cut] + stage.chance.choice((bytes(rest), b"\xff" * rest, stage.chance.randbytes(rest)))


@row("torn-spool", "spool torn at every byte of its last record, drained by a real broker", "D2 D3 D4", gaps=True,
     note="where the publish() of the torn record had returned (which kill -9 alone can't do), a gap event names it")  # fmt: skip
def torn_spool(stage: Stage) -> None:
    *before, size = (RECORD_BYTES + len(body(source_of(0), seq)) for seq in range(EVENTS))
    start = HEADER_BYTES + sum(before)
    stage.checker = checker = HistoryChecker()

    def damage(number: int, file: Path) -> None:
        whole = file.read_bytes()
        assert whole[start + RECORD_BYTES : start + size] == body(source_of(number), EVENTS - 1), "the record is not where it should be"
        broken = torn(whole, start + number, stage)
        file.write_bytes(broken)
        returned = number % 2 == 0 or broken[: start + size] == whole[: start + size]
        if not returned:
            set_published(file.parent, EVENTS - 1)
        declare(checker, number, EVENTS if returned else EVENTS - 1)

    drained(stage, size, damage)


@row(
    "flip-spool",
    "one bit flips anywhere in a spool's segment",
    "D2 D3",
    gaps=True,
    note="a record whose checksum fails is named by a gap event",
)
def flip_spool(stage: Stage) -> None:
    stage.checker = checker = HistoryChecker()

    def damage(number: int, file: Path) -> None:
        content = bytearray(file.read_bytes())
        used = HEADER_BYTES + sum(RECORD_BYTES + len(body(source_of(number), seq)) for seq in range(EVENTS))
        content[stage.chance.randrange(used)] ^= 1 << stage.chance.randrange(8)
        file.write_bytes(content)
        declare(checker, number, EVENTS)

    drained(stage, FLIPS, damage)


def declare(checker: HistoryChecker, number: int, count: int) -> None:
    source = source_of(number)
    checker.published(source, count, {seq: body(source, seq) for seq in range(count)})


def drained(stage: Stage, count: int, damage: Callable[[int, Path], None]) -> None:
    """Orphans of a process that killed itself, each damaged, are drained by the command into a real broker."""
    subprocess.run([sys.executable, "-m", "tests.faults.orphans", str(stage.root), str(count)], cwd=ROOT, check=False)
    for number in range(count):
        damage(number, segment_of(stage.root, number))
    stage.up("alpha", "beta")  # which drains as well: whoever comes first
    stage.mended()
    stage.drain()
    wait_for(lambda: not list((stage.root / "spool").glob("torn-*")), what="the orphans to be gone")
    stage.recovered()
    assert stage.checker is not None
    stage.checker.journal(stage.records())


@row(
    "torn-journal",
    "journal torn at every byte of its last transaction",
    "D3 D8",
    note="a round takes every twentieth offset by the journal's own code, and one by a real broker, to which the events are sent again",
)
def torn_journal(stage: Stage) -> None:
    database, log, acknowledged = killed_in_a_commit(stage)
    cuts = range(acknowledged + stage.number % ROUNDS, len(log), ROUNDS)
    assert len(cuts) > 5
    for cut in cuts:
        found = opened(stage.folder / "torn", database, torn(log, cut, stage) if cut % 2 else log[:cut])
        assert found in (ACKNOWLEDGED, ACKNOWLEDGED + LAST), f"cut at {cut}: {found} events"
    sent_again(stage, database, torn(log, stage.chance.choice(cuts), stage))


@row(
    "flip-journal",
    "one bit flips in the journal's last transaction",
    "D3 D8",
    note="only what was not acknowledged: the journal's other pages have no checksum of ours",
)
def flip_journal(stage: Stage) -> None:
    database, log, acknowledged = killed_in_a_commit(stage)
    broken = b""
    for _ in range(FLIPS):
        content = bytearray(log)
        content[stage.chance.randrange(acknowledged, len(log))] ^= 1 << stage.chance.randrange(8)
        broken = bytes(content)
        assert opened(stage.folder / "flipped", database, broken) in (ACKNOWLEDGED, ACKNOWLEDGED + LAST)
    sent_again(stage, database, broken)


def killed_in_a_commit(stage: Stage) -> tuple[bytes, bytes, int]:
    """A broker dies with its last transaction in the log: the database, the log, and the length of the log's acknowledged part."""
    broker = BrokerProcess(stage.root)
    try:
        client = broker.client()
        client.hello("s")
        for first in range(0, ACKNOWLEDGED, 10):
            client.publish("s", [step("s", seq) for seq in range(first, first + 10)], first=first)
        log = stage.root / "journal.db-wal"
        acknowledged = log.stat().st_size
        client.send(wire.Events(source="s", first=ACKNOWLEDGED, bodies=[step("s", ACKNOWLEDGED + number) for number in range(LAST)]))
        wait_for(lambda: log.stat().st_size > acknowledged, what="the last transaction")
        client.status()  # answered behind the commit
        broker.process.kill()
        broker.ended()
        return (stage.root / "journal.db").read_bytes(), log.read_bytes(), acknowledged
    finally:
        broker.close()


def _expected(journal: Journal) -> int:
    source = journal.contents.tables.sources.committed("s")
    assert source is not None
    return source.expected


def laid_out(folder: Path, database: bytes, log: bytes) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "journal.db").write_bytes(database)
    (folder / "journal.db-wal").write_bytes(log)
    return folder


def opened(folder: Path, database: bytes, log: bytes) -> int:
    """How many events the journal's own code finds, which must be whole and the first ones."""
    path = laid_out(folder, database, log) / "journal.db"
    journal = Journal(path)
    expected = _expected(journal)
    journal.close()
    connection = sqlite3.connect(path)
    bodies = [one for (one,) in connection.execute("SELECT body FROM events WHERE seq >= 0 ORDER BY offset")]
    connection.close()
    assert bodies == [step("s", seq) for seq in range(expected)]
    return expected


def sent_again(stage: Stage, database: bytes, log: bytes) -> None:
    """A real broker on the torn journal says from where it wants the events, and gets them."""
    broker = BrokerProcess(laid_out(stage.folder / "again", database, log))
    try:
        client = broker.client()
        expected = client.hello("s").expected
        total = ACKNOWLEDGED + LAST
        assert ACKNOWLEDGED <= expected <= total
        if expected < total:
            client.publish("s", [step("s", seq) for seq in range(expected, total)], first=expected)
        stage.checker = HistoryChecker()
        stage.checker.published("s", total, {seq: step("s", seq) for seq in range(total)})
        stage.checker.journal(client.ask(wire.History(), wire.Page).events)
        assert broker.stop() == 0
    finally:
        broker.close()
