"""Reading: replay into a late subscriber, and end-to-end latency at 100 events a second.

Replay stands beside the machine's limit in the same run: SQLite read in one query and decoded, in one process. Latency, from the call of
`publish` to the subscriber's hands, stands beside a bare pyzmq PUB/SUB ping, which neither journals nor acknowledges. Publisher,
broker and subscriber are three processes.
Usage: python benchmarks/reading.py [EVENTS] [SECONDS]
"""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

import zmq
from common import METRICS, broker, figures, save, table

from trainbus import Publisher, Subscriber
from trainbus.bus.config import BusConfig
from trainbus.bus.events import Step, decode, encode

EVENTS = int(sys.argv[1]) if len(sys.argv) > 1 else 300_000
SECONDS = int(sys.argv[2]) if len(sys.argv) > 2 else 10
RATE = 100
ROUNDS = 3


def paced(count: int, act: Callable[[int], None]) -> None:
    """Call ``act`` ``count`` times at `RATE`."""
    begin = time.perf_counter()
    for number in range(count):
        time.sleep(max(0.0, begin + number / RATE - time.perf_counter()))
        act(number)


# --- replay ---


def replay(home: Path, decoded: bool) -> tuple[float, float]:
    """Events a second into a subscriber that starts at the beginning, and its own processor time for one in µs."""
    begin, used = time.perf_counter(), time.process_time()
    count = 0
    with Subscriber(kinds=["step"], root=home, decode=decoded) as subscriber:
        for _ in subscriber:
            count += 1
            if count == EVENTS:
                break
    return EVENTS / (time.perf_counter() - begin), (time.process_time() - used) / EVENTS * 1e6


def sqlite_limit() -> tuple[float, float]:
    """The same figures for a bare table read by one query and decoded, nothing between."""
    body = encode(Step(run="bench", source="0123456789abcdef", seq=1, time=time.time_ns(), step=1, metrics=METRICS))
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE events (offset INTEGER PRIMARY KEY, body BLOB)")
    connection.executemany("INSERT INTO events VALUES (?, ?)", ((number, body) for number in range(EVENTS)))
    begin, used = time.perf_counter(), time.process_time()
    for offset, found in connection.execute("SELECT offset, body FROM events ORDER BY offset"):
        decode(found, offset)
    return EVENTS / (time.perf_counter() - begin), (time.process_time() - used) / EVENTS * 1e6


def measure_replay() -> dict[str, tuple[float, float]]:
    """Best of `ROUNDS`, alternating, so that a noisy neighbour hits all alike."""
    best = dict.fromkeys(("decoded", "undecoded", "sqlite"), (0.0, 0.0))
    with broker() as home:
        publisher = Publisher("bench", root=home)
        for step in range(EVENTS):
            publisher.publish(Step(step=step, metrics=METRICS))
        if not publisher.close(300):
            raise SystemExit("the journal could not be filled")
        for _ in range(ROUNDS):
            for name, value in (("decoded", replay(home, True)), ("undecoded", replay(home, False)), ("sqlite", sqlite_limit())):
                best[name] = max(best[name], value)
    return best


# --- latency ---


def publish_steps(home: Path, flush_interval: float, count: int) -> None:
    publisher = Publisher("bench", root=home, settings=BusConfig(flush_interval=flush_interval))
    publisher.publish(Step(step=-1))
    publisher.flush(10)
    paced(count, lambda number: publisher.publish(Step(step=number, metrics=METRICS)))
    publisher.close(30)


def measure_latency(flush_interval: float) -> list[float]:
    """Milliseconds from `publish` (which stamps the event's time) to the subscriber, one for each event."""
    count = RATE * SECONDS
    found: list[float] = []
    with broker() as home, Subscriber(kinds=["step"], root=home) as subscriber:
        process = multiprocessing.get_context("spawn").Process(target=publish_steps, args=(home, flush_interval, count))
        process.start()
        while len(found) < count:
            event = subscriber.next(60)
            now = time.time_ns()
            if not isinstance(event, Step):
                raise SystemExit(f"the subscriber got {len(found)} of {count} events")
            if event.step >= 0:
                found.append((now - event.time) / 1e6)
        process.join()
    return found


def send_pings(address: str, count: int) -> None:
    with zmq.Context.instance().socket(zmq.XPUB) as socket:
        socket.connect(address)
        socket.recv()  # the subscription
        paced(count, lambda _: socket.send(b"%d" % time.time_ns()))
        socket.linger = 5_000


def measure_ping() -> list[float]:
    """Milliseconds of a bare hop between two processes over TCP."""
    count = RATE * SECONDS
    found: list[float] = []
    with zmq.Context.instance().socket(zmq.SUB) as socket:
        socket.subscribe(b"")
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        process = multiprocessing.get_context("spawn").Process(target=send_pings, args=(f"tcp://127.0.0.1:{port}", count))
        process.start()
        while len(found) < count:
            sent = int(socket.recv())
            found.append((time.time_ns() - sent) / 1e6)
        process.join()
    return found


def main() -> None:
    load = os.getloadavg()[0]
    rates = measure_replay()
    limit = rates["sqlite"][0]
    rows = [[name, rate, f"{rate / limit:.2f}", f"{used:.2f}"] for name, (rate, used) in rates.items()]
    columns = ["reader", "events/s", "of the SQLite limit", "its processor time, µs an event"]
    table(f"Replay of {EVENTS:,} step events (bar: 200,000 events/s)", columns, rows)
    latencies = {
        "trainbus, immediate flush": figures(measure_latency(0.0)),
        "trainbus, default flush": figures(measure_latency(BusConfig().flush_interval)),
        "bare PUB/SUB": figures(measure_ping()),
    }
    bare = latencies["bare PUB/SUB"]["p50"]
    rows = [
        [name, *(f"{found[key]:.3f}" for key in ("p50", "p95", "p99", "max")), f"{found['p50'] / bare:.1f}"]
        for name, found in latencies.items()
    ]
    title = f"End-to-end latency at {RATE} events/s, ms (bar: p50 0.6, p99 5 at immediate flush; default flush_interval + 10)"
    table(title, ["path", "p50", "p95", "p99", "max", "p50 of the bare hop"], rows)
    print(f"\nload average before the run: {load:.1f}")
    save("reading", {"replay": rates, "latency_ms": latencies, "load": load})


if __name__ == "__main__":
    main()
