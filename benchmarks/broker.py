"""The broker alone: durable throughput with one subscriber, history reads, and the limits of its parts in the same run.

    python benchmarks/broker.py [--events N] [--synchronous FULL]

A raw client (pre-encoded step events of about 250 bytes, batches of 1,000, a window of 16) talks to a real broker process. The
limits: SQLite's executemany alone with the journal's tables, and pyzmq alone with the same frames.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import zmq

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--synchronous", default="FULL", choices=("FULL", "NORMAL", "OFF"))
    chosen = parser.parse_args()
    count = chosen.events
    with tempfile.TemporaryDirectory() as folder:
        settings = json.dumps({"synchronous": chosen.synchronous})
        command = [sys.executable, "-m", "trainbus.bus.broker", "--root", folder, "--config", settings]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as broker:
            connection = msgspec.json.decode(broker.stdout.readline(), type=home.Connection)
            waits = latency(connection.router)
            cpu = cpu_seconds(broker.pid)
            acknowledged, seen = durable(connection.router, connection.xpub, count)
            cpu = cpu_seconds(broker.pid) - cpu
            everything, all_seconds = replay(connection.router, count)
            chosen_runs, run_seconds = replay(connection.router, count, kinds=["step"], runs=["bench"])
            rare, rare_seconds = replay(connection.router, count, kinds=["step"], runs=["latency"])
            broker.terminate()
        sqlite_seconds = bare_sqlite(Path(folder), min(count, 300_000)) * count / min(count, 300_000)
    zmq_seconds = bare_pyzmq(min(count, 300_000)) * count / min(count, 300_000)
    body = len(step_body("bench-publisher", count))
    print(f"{count:,} step events of {body} bytes, synchronous={chosen.synchronous}, batches of {BATCH:,}, window of {WINDOW} batches")
    print(f"  durable, acknowledged     {count / acknowledged:>12,.0f} events/s   bar 100,000: {count / acknowledged / 100_000:.2f} x")
    print(f"  durable, at subscriber    {count / seen:>12,.0f} events/s   bar 100,000: {count / seen / 100_000:.2f} x")
    print(f"  broker CPU                {cpu / count * 1e6:>12.2f} us/event")
    print(f"  limit: bare SQLite        {count / sqlite_seconds:>12,.0f} events/s   broker reaches {sqlite_seconds / acknowledged:.0%}")
    print(f"  limit: bare pyzmq         {count / zmq_seconds:>12,.0f} events/s   broker reaches {zmq_seconds / acknowledged:.0%}")
    for name, number, seconds in (("all", everything, all_seconds), ("one run", chosen_runs, run_seconds)):
        print(f"  history, {name:<16} {number / seconds:>12,.0f} events/s   bar 200,000: {number / seconds / 200_000:.2f} x")
    print(f"  history, {rare} rare events among {everything:,}: {rare_seconds * 1e3:.1f} ms")
    median, worst = waits[len(waits) // 2] * 1e3, waits[int(len(waits) * 0.99)] * 1e3
    print(f"  latency to acknowledgement, one event: p50 {median:.2f} ms, p99 {worst:.2f} ms")


if __name__ == "__main__":
    main()
