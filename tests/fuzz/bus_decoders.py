"""What the bus reads: frames from the network, its own files, what its children report. Each may raise only what it promises to."""

from __future__ import annotations

import contextlib
import itertools
import logging
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from tests.broker.broker_bench import Bench, body
from tests.protocol.examples import all_examples, example
from trainbus.bus import events, wire
from trainbus.bus.broker import keystore, maintenance
from trainbus.bus.broker.journal import Journal
from trainbus.bus.broker.replay import read_events
from trainbus.bus.broker.trimming import trim_of
from trainbus.bus.config_file import load
from trainbus.bus.credentials import Credentials, credentials_for, parse_token
from trainbus.bus.drain import spools
from trainbus.bus.exchange import Exchange
from trainbus.bus.filter import Filter
from trainbus.bus.home import Connection, connection_file, private_directory, read_connection
from trainbus.bus.hosting import report
from trainbus.bus.hosting.instance import Running, read_running
from trainbus.bus.hosting.output import LineSplitter
from trainbus.bus.hosting.state import StateStore
from trainbus.bus.link import Link
from trainbus.bus.outbox import Outbox
from trainbus.bus.segment import Segment
from trainbus.bus.spool import Identity, Spool, read_meta
from trainbus.bus.stream import Stream
from trainbus.cli.render import line
from trainbus.errors import ConfigError, JournalError, PluginError, ProtocolError, RefusedError, SpoolError, TrainbusError, UnreachableError

CONFIGURATION = b"""# what starts, and how
plugins = ["anomaly", "retention",
  "web"]
[bus]
bind = "127.0.0.1"
lost_after = 30.5
journal_max_bytes = 1_000_000
[trainer]
[plugin.retention]
keep_best = [{ metric = "eval_loss" }, { metric = "a/b", direction = "max", count = 2 }]
[[plugin.retention.keep]]
policy = "tiers"
"""
BROKEN_BODY = (msgspec.DecodeError,)
TRAVELLING = all_examples()
FRAMES = [content for name, content in TRAVELLING.items() if not name.startswith("event-")]
BODIES = [content for name, content in TRAVELLING.items() if name.startswith("event-")]


class Decoder(NamedTuple):
    """Something that reads bytes which it has not written. ``read`` gets them and an empty folder, and raises nothing."""

    name: str
    corpus: Sequence[bytes]
    read: Callable[[bytes, Path], None]


def _message(content: bytes, folder: Path) -> None:
    with contextlib.suppress(*BROKEN_BODY):
        wire.decode_message(content)


def _event(content: bytes, folder: Path) -> None:
    with contextlib.suppress(*BROKEN_BODY):
        line(events.decode(content, 7))
    with contextlib.suppress(*events.DECODE_ERRORS):
        events.decode_envelope(content)


def _broker(content: bytes, folder: Path) -> None:
    """A frame, and the same bytes as the body of an event: the broker answers the next question, and the journal can be read."""
    bench = Bench(folder / "journal.db")
    try:
        bench.hello("s", owner=True)
        for frame in (content, wire.encode(wire.Events(source="s", first=0, bodies=[body(events.Step(step=1), "s", 0), content]))):
            bench.core.receive_frame(b"stranger", frame, bench.now)
            bench.take_effects()
            bench.commit()
        for _, answer in bench.sent:
            wire.encode(answer)
        bench.tick(1.0)
        assert isinstance(bench.call(wire.Status()), wire.Reply)
        for _ in read_events(folder / "journal.db"):
            pass
        bench.restart()
        assert isinstance(bench.call(wire.Status()), wire.Reply)
    finally:
        bench.close()


def _client(content: bytes, folder: Path) -> None:
    """An answer to somebody who waits for a page: he gets one, or an error for people."""
    exchange = Exchange()
    ticket = exchange.ask(wire.History(), wire.Page)
    exchange.outgoing()
    exchange.sent()
    exchange.received(content)
    if ticket.done:
        with contextlib.suppress(TrainbusError):
            ticket.result()


def _publisher(content: bytes, folder: Path) -> None:
    """What a broker says to a publisher, whatever its numbers are: the next message can be made."""
    spool = Spool(folder, Identity(source="s", run="r"), segment_bytes=1 << 16, total_bytes=1 << 17)
    outbox = Outbox(spool, memory_events=10)
    try:
        outbox.prepare(0.0)
        for number in range(5):
            outbox.append(number, body(events.Step(step=number), "s", number))
        link = Link(wire.Hello(source="s", run="r"), outbox, on_command=lambda command: None)
        link.connected(1.0)
        link.poll(1.0)
        link.receive(wire.Welcome(source="s", journal="j", expected=0), 1.0)
        link.poll(1.0)
        with contextlib.suppress(*BROKEN_BODY):
            link.receive(wire.decode_message(content), 1.1)
        link.poll(9.0)
        link.stats()
    finally:
        outbox.close()


def _subscriber(content: bytes, folder: Path) -> None:
    stream = Stream(Filter(), journal="j")
    with contextlib.suppress(JournalError, ProtocolError):
        stream.frame(content)
        stream.wanted()
        stream.take()


def _segment(content: bytes, folder: Path) -> None:
    """What is read of a damaged spool is what was written, record by record."""
    file = folder / "000000.seg"
    file.write_bytes(content)
    segment = Segment.recover(file)
    if segment is not None:
        for one in segment.read(segment.first, 1_000, 1 << 20):
            assert one in SPOOLED
        segment.close()


def _spool_meta(content: bytes, folder: Path) -> None:
    place = folder / "spool" / "s"
    place.mkdir(parents=True)
    (place / "meta").write_bytes(content)
    with contextlib.suppress(SpoolError):
        read_meta(place)
    spools(folder)


def _journal_file(content: bytes, folder: Path) -> None:
    file = folder / "journal.db"
    file.write_bytes(content)
    _open(file)


def _journal_rows(content: bytes, folder: Path) -> None:
    """Somebody has written into a table by hand: the bytes decide in which column, and as what."""
    file = folder / "journal.db"
    choice = crc32(content)
    table, column = COLUMNS[choice % len(COLUMNS)]
    values = (content, content.decode("utf-8", "replace"), len(content) * -(10**12), 2.5, None) if column != "body" else (content,)
    file.write_bytes(JOURNAL)
    with contextlib.closing(sqlite3.connect(file)) as connection, contextlib.suppress(sqlite3.IntegrityError):
        connection.execute(f"UPDATE {table} SET {column}=?", (values[choice // len(COLUMNS) % len(values)],))
        connection.commit()
    _open(file)


def _open(file: Path) -> None:
    looks: list[Callable[[Path], object]] = [
        maintenance.describe,
        maintenance.faults,
        maintenance.journal_id,
        lambda path: trim_of(path, max_bytes=1),
    ]
    for look in looks:
        with contextlib.suppress(JournalError):
            look(file)
    try:
        journal = Journal(file, synchronous="OFF")
    except JournalError:
        return
    journal.close()
    with contextlib.suppress(JournalError, *BROKEN_BODY):
        for _ in itertools.islice(read_events(file), 100):
            pass


def _configuration(content: bytes, folder: Path) -> None:
    file = folder / "trainbus.toml"
    file.write_bytes(content)
    with contextlib.suppress(ConfigError):
        load(file, environment={})
    text = content.decode("utf-8", "replace")
    with contextlib.suppress(ConfigError):
        load(None, overrides=(text,), environment={})
    with contextlib.suppress(ConfigError):
        load(None, environment={"TRAINBUS__BUS__BIND": text, "TRAINBUS__BUS__LOST_AFTER": text})


def _connection(content: bytes, folder: Path) -> None:
    connection_file(folder).write_bytes(content)
    with contextlib.suppress(UnreachableError):
        read_connection(folder)


def _token(content: bytes, folder: Path) -> None:
    """No part of what may be a secret stands in the message."""
    text = content.decode("utf-8", "replace")
    try:
        parse_token(text)
    except ConfigError as error:
        words = f"{error.problem} {error.hint}"
        assert text.strip() not in words or len(text.strip()) < 12


def _book(content: bytes, folder: Path) -> None:
    file = keystore.book_file(folder)
    private_directory(file.parent)
    file.write_bytes(content)
    with contextlib.suppress(ConfigError):
        book = keystore.read_book(folder)
        assert book is not None, "never means: no keys"
        book.valid(0)
    (file.parent / "local.json").write_bytes(content)
    with contextlib.suppress(RefusedError):
        credentials_for(Connection(router="tcp://127.0.0.1:1", xpub="", journal="", pid=0, server_key="k" * 40), folder)


def _account(content: bytes, folder: Path) -> None:
    (folder / "up.json").write_bytes(content)
    read_running(folder)


def _report(content: bytes, folder: Path) -> None:
    with contextlib.suppress(*events.DECODE_ERRORS):
        report.decode(content)


def _state(content: bytes, folder: Path) -> None:
    """What a plugin has kept, damaged in the journal: it does not start, and says which key and what to do."""
    with contextlib.suppress(PluginError):
        dict(StateStore({"good": b"\x01", "bad": content}, logging.getLogger("fuzz.state")))


def _printed(content: bytes, folder: Path) -> None:
    splitter = LineSplitter()
    for start in range(0, len(content), 777):
        splitter.feed(content[start : start + 777])
    for text in splitter.close():
        text.encode()


def _spooled() -> list[bytes]:
    return [body(events.Step(step=number, metrics={"loss": 1.0 / (number + 1)}), "s", number) for number in range(6)]


SPOOLED = _spooled()


def _segments(folder: Path) -> list[bytes]:
    found = []
    for first in (0, 3):
        place = folder / str(first)
        place.mkdir()
        outbox = Outbox(Spool(place, Identity(source="s", run="r"), segment_bytes=1 << 16, total_bytes=1 << 17), memory_events=1)
        segment = Segment.create(place / "0.seg", 4_096)
        segment.begin(first)
        for number in range(first, 6):
            outbox._store(segment, number, SPOOLED[number])
        found.append((place / "0.seg").read_bytes())
        segment.close()
    return found


def _meta_file(folder: Path) -> bytes:
    outbox = Outbox(
        Spool(folder, Identity(source="s", run="r", name="n", host="h"), segment_bytes=1 << 16, total_bytes=1 << 17), memory_events=1
    )
    outbox.prepare(0.0)
    meta = next(folder.rglob("meta")).read_bytes()
    outbox.close()
    return meta


def _journal(folder: Path) -> bytes:
    bench = Bench(folder / "journal.db")
    bench.hello("s", owner=True)
    bench.publish("s", *(body(events.Step(step=number), "s", number) for number in range(4)))
    bench.call(wire.OpenCursor(consumer="c"))
    bench.call(wire.CommitCursor(consumer="c", offset=1, state={"key": b"\x01"}))
    bench.call(wire.TakeLease(resource="/c", holder="me"))
    bench.call(wire.SendCommand(run="r", verb="save"))
    bench.call(wire.AddDeadLetter(consumer="c", offset=1, attempts=3, reason="died"))
    bench.close()
    return (folder / "journal.db").read_bytes()


JOURNAL = b""
COLUMNS: list[tuple[str, str]] = []


def bus_decoders(folder: Path) -> list[Decoder]:
    """All of them; ``folder`` is where their corpora are made."""
    global JOURNAL
    (places := folder / "journal").mkdir()
    JOURNAL = _journal(places)
    with contextlib.closing(sqlite3.connect(places / "journal.db")) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type='table'")]
        COLUMNS[:] = [(table, row[1]) for table in tables for row in connection.execute(f"PRAGMA table_info({table})")]
    (segments := folder / "segments").mkdir()
    (meta := folder / "meta").mkdir()
    (keys := folder / "keys").mkdir()
    credentials, book = keystore.invite(keys, "laptop", "observer", "127.0.0.1")
    local = (keys / "keys" / "local.json").read_bytes()
    reports: list[Any] = [example(kind) for kind in (report.Hello, report.Refusal, report.Progress)]
    fans = [
        b"step.r\0" + msgspec.msgpack.encode(wire.Fanout(previous=-1, events=[(0, SPOOLED[0])])),
        wire.pack_frame(b"metric.r", example(wire.Fanout)),
    ]
    marks = [wire.pack_frame(wire.COMMIT_TOPIC, wire.Commit(journal="j", previous=-1, head=0, topics=["step.r"]))]
    commands = [wire.encode(wire.Deliver(offset=3, body=body(events.Command(id="c", verb="save"), "b", 0)))]
    answers = [
        wire.encode(wire.Reply(id=0, result=msgspec.Raw(msgspec.msgpack.encode(example(wire.Page))))),
        wire.encode(wire.Failure(id=0, code="x", problem="p")),
    ]
    told = [
        wire.encode(wire.Ack(source="s", expected=3)),
        wire.encode(wire.Rewind(source="s", expected=2)),
        wire.encode(wire.Welcome(source="s", journal="k", expected=1)),
    ]
    return [
        Decoder("wire messages", FRAMES, _message),
        Decoder("events", BODIES, _event),
        Decoder("frames to the broker", FRAMES + BODIES, _broker),
        Decoder("answers to clients", answers + FRAMES, _client),
        Decoder("messages to publishers", told + commands + FRAMES, _publisher),
        Decoder("the fan-out", fans + marks, _subscriber),
        Decoder("spool segments", _segments(segments), _segment),
        Decoder("spool identities", [_meta_file(meta)], _spool_meta),
        Decoder("the journal file", [JOURNAL], _journal_file),
        Decoder("journal rows", [b"r", b"\x80", b"12", b"running"], _journal_rows),
        Decoder(
            "the configuration",
            [CONFIGURATION, b"bus.lost_after = 3", b"a.'b c'=[1, {x=2}]"],
            _configuration,
        ),
        Decoder("the connection file", [msgspec.json.encode(example(Connection))], _connection),
        Decoder("invitations", [credentials.token().encode(), local, msgspec.json.encode(example(Credentials))], _token),
        Decoder("the book of keys", [msgspec.json.encode(book), local], _book),
        Decoder("the supervisor's account", [msgspec.json.encode(example(Running))], _account),
        Decoder("reports of plugins", [msgspec.json.encode(one) for one in reports], _report),
        Decoder("state of plugins", [msgspec.msgpack.encode({"a": [1, 2.5, "x", b"y", None]})], _state),
        Decoder("output of children", [b"10%\r20%\r\nloss 1.0\n", "größe €\n".encode() * 50], _printed),
    ]
