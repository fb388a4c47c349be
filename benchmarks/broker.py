"""The broker alone: durable throughput with one subscriber, history reads, and the limits of its parts in the same run.

A raw client (step events encoded before, batches of 1,000, a window of 16) talks to a real broker process. The limits: SQLite's
executemany alone with the journal's tables, and pyzmq alone with the same frames.
"""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import threading
import time
from pathlib import Path

import msgspec
import zmq

from benchmarks.common import broker_process, spread, temporary_home
from benchmarks.frame import Bar, Result, Table
from trainbus.bus import events, home, wire
from trainbus.bus.broker import schema

BATCH = 1_000
WINDOW = 16
METRICS = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "memory", "entropy", "accuracy", "margin")


def step_body(source: str, seq: int, run: str = "bench") -> bytes:
    metrics = {name: 0.5 + seq * 1e-6 + number for number, name in enumerate(METRICS)}
    return events.encode(events.Step(run=run, source=source, seq=seq, time=1_700_000_000_000_000_000 + seq, step=seq, metrics=metrics))


def frames_of(source: str, count: int) -> list[bytes]:
    batches = (range(first, min(first + BATCH, count)) for first in range(0, count, BATCH))
    return [wire.encode(wire.Events(source=source, first=batch[0], bodies=[step_body(source, seq) for seq in batch])) for batch in batches]


def publish(router: str, count: int, ready: multiprocessing.Barrier, results: multiprocessing.Queue) -> None:
    source = "bench-publisher"
    frames = frames_of(source, count)
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.connect(router)
    socket.send(wire.encode(wire.Hello(source=source, run="bench")))
    assert isinstance(wire.decode_message(socket.recv()), wire.Welcome)
    ready.wait()
    started = time.perf_counter()
    sent = acknowledged = 0
    while acknowledged < count:
        while sent < len(frames) and sent * BATCH - acknowledged < WINDOW * BATCH:
            socket.send(frames[sent])
            sent += 1
        message = wire.decode_message(socket.recv())
        assert isinstance(message, wire.Ack), message
        acknowledged = message.expected
    results.put(("publisher", started, time.perf_counter()))


def subscribe(xpub: str, count: int, ready: multiprocessing.Barrier, results: multiprocessing.Queue) -> None:
    socket = zmq.Context.instance().socket(zmq.SUB)
    socket.setsockopt(zmq.RCVHWM, 100_000)
    socket.subscribe(b"step.")
    socket.subscribe(wire.COMMIT_TOPIC)
    socket.connect(xpub)
    socket.recv()  # a marker: the subscription is live
    decoder = msgspec.msgpack.Decoder(wire.Fanout)
    ready.wait()
    seen = 0
    while seen < count:
        topic, payload = wire.split_frame(socket.recv())
        if topic != wire.COMMIT_TOPIC:
            seen += len(decoder.decode(payload).events)
    results.put(("subscriber", 0.0, time.perf_counter()))


def durable(router: str, xpub: str, count: int) -> tuple[float, float]:
    """Seconds until all is acknowledged, and until the subscriber has all."""
    ready, results = multiprocessing.Barrier(2), multiprocessing.Queue()
    targets = ((publish, router), (subscribe, xpub))
    parts = [multiprocessing.Process(target=target, args=(address, count, ready, results)) for target, address in targets]
    for part in parts:
        part.start()
    found = {name: (begin, end) for name, begin, end in (results.get() for _ in parts)}
    for part in parts:
        part.join()
    started = found["publisher"][0]
    return found["publisher"][1] - started, found["subscriber"][1] - started


def replay(router: str, count: int, **filters: list[str]) -> tuple[int, float]:
    """Events read through history pages, one page asked for ahead, and the seconds that took."""
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.connect(router)
    decoder = msgspec.msgpack.Decoder(wire.Page)
    started, after, read, done = time.perf_counter(), -1, 0, False
    while not done:
        socket.send(wire.encode(wire.Call(id=1, request=wire.History(after=after, limit=10_000, **filters))))
        answer = wire.decode_message(socket.recv())
        assert isinstance(answer, wire.Reply), answer
        page = decoder.decode(answer.result)
        read, after, done = read + len(page.events), page.next, page.done
    socket.close()
    return read, time.perf_counter() - started


def latency(router: str, rounds: int = 300) -> list[float]:
    """Seconds from sending one event on an idle bus to its acknowledgement."""
    source = "bench-latency"
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.connect(router)
    socket.send(wire.encode(wire.Hello(source=source, run="latency")))
    socket.recv()
    times = []
    for seq in range(rounds):
        frame = wire.encode(wire.Events(source=source, first=seq, bodies=[step_body(source, seq, "latency")]))
        started = time.perf_counter()
        socket.send(frame)
        socket.recv()
        times.append(time.perf_counter() - started)
        time.sleep(0.005)
    socket.close()
    return sorted(times)


def bare_sqlite(folder: Path, count: int) -> float:
    """Seconds for the same rows by executemany in batches, with the journal's tables and settings."""
    path = folder / "bare.db"
    schema.create(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    rows = [(seq, 1, 1, 1, seq, seq, step_body("bench-publisher", seq)) for seq in range(count)]
    started = time.perf_counter()
    for first in range(0, count, BATCH):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO events VALUES(?,?,?,?,?,?,?)", rows[first : first + BATCH])
        connection.execute("COMMIT")
    seconds = time.perf_counter() - started
    connection.close()
    return seconds


def bare_pyzmq(count: int) -> float:
    """Seconds for the same frames over TCP from one thread to another, decoded there."""
    frames = frames_of("bench-publisher", count)
    context = zmq.Context()
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    dealer.connect(f"tcp://127.0.0.1:{port}")
    sender = threading.Thread(target=lambda: [dealer.send(frame) for frame in frames])
    started = time.perf_counter()
    sender.start()
    for _ in frames:
        wire.decode_message(router.recv_multipart()[1])
    seconds = time.perf_counter() - started
    sender.join()
    context.destroy(linger=0)
    return seconds


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bench(quick: bool) -> Result:
    rounds, count, limit_count = (1, 50_000, 50_000) if quick else (3, 500_000, 300_000)
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for _ in range(rounds):
        with temporary_home() as folder:
            with broker_process(folder) as process:
                connection = home.read_connection(folder)
                waits = latency(connection.router)
                cpu = cpu_seconds(process.pid)
                acknowledged, seen = durable(connection.router, connection.xpub, count)
                note("broker's processor time, µs an event", (cpu_seconds(process.pid) - cpu) / count * 1e6)
                note("acknowledged, events/s", count / acknowledged)
                note("at a subscriber, events/s", count / seen)
                for name, filters in (("all", {}), ("one run", {"kinds": ["step"], "runs": ["bench"]})):
                    number, seconds = replay(connection.router, count, **filters)
                    note(f"history pages, {name}, events/s", number / seconds)
                _, seconds = replay(connection.router, count, kinds=["step"], runs=["latency"])
                note("history, 300 rare events among the others, ms", seconds * 1e3)
                note("one event to its acknowledgement, p50, ms", waits[len(waits) // 2] * 1e3)
                note("one event to its acknowledgement, p99, ms", waits[int(len(waits) * 0.99)] * 1e3)
            note("limit: bare SQLite with the same tables, events/s", limit_count / bare_sqlite(folder, limit_count))
        note("limit: bare pyzmq with the same frames, events/s", limit_count / bare_pyzmq(limit_count))
    best = {name: max(values) if "events/s" in name else min(values) for name, values in found.items()}
    limit = best["limit: bare SQLite with the same tables, events/s"]
    rows: list[list[str | float | int]] = [
        [name, value, f"{value / limit:.2f}" if "events/s" in name else "", spread(found[name], 0 if value > 1_000 else 2)]
        for name, value in best.items()
    ]
    return Result(
        "The broker alone",
        f"A raw client sends {count:,} step events of {len(step_body('bench-publisher', count))} bytes encoded before, in batches of"
        f" {BATCH:,}, {WINDOW} of them unacknowledged at most, to a real broker process with synchronous=FULL; {rounds} rounds, the best"
        " of each counts.",
        [Table("broker", ["", "best", "of bare SQLite", "over the rounds"], rows)],
        [Bar("acknowledged and at a subscriber", best["at a subscriber, events/s"], 100_000, "events/s", at_most=False)],
        data={"rounds": found},
    )
