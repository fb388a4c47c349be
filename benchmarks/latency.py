"""From the call of publish to the subscriber's hands at 100 events a second, beside Redis streams and the machine's limits.

Publisher, broker and subscriber are three processes. trainbus and Redis (appendfsync always) have each event on disk before the reader
gets it. The limits: a bare PUB/SUB hop between two processes, and one small write with fdatasync. An event travels two hops and waits
for one such write, so their sum is what no broker of this kind can go below.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import zmq

from benchmarks.common import METRICS, broker, figures, paced, redis_server, spread
from benchmarks.frame import Bar, Result, Table, absent_or_version

RATE = 100
P50_BAR_MS, P99_BAR_MS, DEFAULT_EXTRA_MS = 0.6, 5.0, 10.0
_spawn = multiprocessing.get_context("spawn")


def publish_steps(home: Path, flush_interval: float, count: int) -> None:
    from trainbus import Publisher
    from trainbus.bus.config import BusConfig
    from trainbus.bus.events import Step

    publisher = Publisher("bench", root=home, settings=BusConfig(flush_interval=flush_interval))
    publisher.publish(Step(step=-1))
    publisher.flush(10)
    paced(count, RATE, lambda number: publisher.publish(Step(step=number, metrics=METRICS)))
    publisher.close(30)


def trainbus(flush_interval: float, count: int) -> list[float]:
    """Milliseconds from `publish`, which stamps the event's time, one for each event."""
    from trainbus import Subscriber

    found: list[float] = []
    with broker() as home, Subscriber(kinds=["step"], root=home) as subscriber:
        process = _spawn.Process(target=publish_steps, args=(home, flush_interval, count))
        process.start()
        while len(found) < count:
            event = subscriber.next(60)
            now = time.time_ns()
            if event is None:
                raise SystemExit(f"the subscriber got {len(found)} of {count} events")
            if getattr(event, "step", -1) >= 0:
                found.append((now - event.time) / 1e6)
        process.join()
    return found


def add_to_redis(port: int, count: int) -> None:
    import redis

    client = redis.Redis(port=port)
    body = bytes(260)
    client.xadd("events", {"body": body, "time": 0})
    paced(count, RATE, lambda _: client.xadd("events", {"body": body, "time": time.time_ns()}))


def redis_streams(count: int) -> list[float] | None:
    """The same path through XADD and a blocking XREAD; None without Redis."""
    try:
        import redis
    except ImportError:
        return None
    if not shutil.which("redis-server"):
        return None
    found: list[float] = []
    with redis_server() as port:
        client = redis.Redis(port=port)
        process = _spawn.Process(target=add_to_redis, args=(port, count))
        process.start()
        last = "0"
        while len(found) < count:
            for _, entries in client.xread({"events": last}, block=60_000):
                now = time.time_ns()
                last = entries[-1][0]
                for _, fields in entries:
                    if stamp := int(fields[b"time"]):
                        found.append((now - stamp) / 1e6)
        process.join()
    return found


def send_pings(address: str, count: int) -> None:
    with zmq.Context.instance().socket(zmq.XPUB) as socket:
        socket.connect(address)
        socket.recv()  # the subscription
        paced(count, RATE, lambda _: socket.send(b"%d" % time.time_ns()))
        socket.linger = 5_000


def bare_hop(count: int) -> list[float]:
    """Milliseconds of a bare hop between two processes over TCP."""
    found: list[float] = []
    with zmq.Context.instance().socket(zmq.SUB) as socket:
        socket.subscribe(b"")
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        process = _spawn.Process(target=send_pings, args=(f"tcp://127.0.0.1:{port}", count))
        process.start()
        while len(found) < count:
            sent = int(socket.recv())
            found.append((time.time_ns() - sent) / 1e6)
        process.join()
    return found


def flushed_write(count: int) -> list[float]:
    """Milliseconds of appending 4 KiB to a file and flushing it, which is the least that a durable log does."""
    found: list[float] = []
    with tempfile.TemporaryFile() as file:
        block = bytes(4096)

        def write(number: int) -> None:
            begin = time.perf_counter()
            os.write(file.fileno(), block)
            os.fdatasync(file.fileno())
            found.append((time.perf_counter() - begin) * 1e3)

        paced(count, RATE, write)
    return found


def bench(quick: bool) -> Result:
    from trainbus.bus.config import BusConfig

    rounds, count = (1, 200) if quick else (4, 500)
    default = BusConfig().flush_interval
    paths: dict[str, Callable[[], list[float] | None]] = {
        "trainbus, immediate flush": lambda: trainbus(0.0, count),
        "trainbus, default flush": lambda: trainbus(default, count),
        "Redis streams, fsync always": lambda: redis_streams(count),
        "bare PUB/SUB hop (limit)": lambda: bare_hop(count),
        "4 KiB and fdatasync (limit)": lambda: flushed_write(count),
    }
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for name, path in paths.items():
            if (measured := path()) is not None:
                found.setdefault(name, []).append(figures(measured))
    best = {name: {key: min(one[key] for one in measured) for key in ("p50", "p95", "p99", "max")} for name, measured in found.items()}
    floor = 2 * best["bare PUB/SUB hop (limit)"]["p50"] + best["4 KiB and fdatasync (limit)"]["p50"]
    rows: list[list[str | float | int]] = [
        [name, *(f"{best[name][key]:.2f}" for key in ("p50", "p95", "p99", "max")), spread([one["p50"] for one in measured], 2),
         f"{best[name]['p50'] / floor:.2f}"]
        for name, measured in found.items()
    ]  # fmt: skip
    rows.append(["two hops and one flush (limit)", f"{floor:.2f}", "", "", "", "", "1.00"])
    immediate, gathered = best["trainbus, immediate flush"], best["trainbus, default flush"]
    bars = [
        Bar("immediate flush, p50", immediate["p50"], P50_BAR_MS, "ms"),
        Bar("immediate flush, p99", immediate["p99"], P99_BAR_MS, "ms"),
        Bar("default flush, p99", gathered["p99"], default * 1e3 + DEFAULT_EXTRA_MS, "ms"),
    ]
    return Result(
        "Latency",
        f"{RATE} events/s with ten metrics, {count} of them a round, {rounds} rounds, all paths in turn; the best round of each counts.",
        [Table("ms from publish to the subscriber", ["path", "p50", "p95", "p99", "max", "p50 over the rounds", "p50 / limit"], rows)],
        bars,
        {"redis-py": absent_or_version("redis"), "redis-server": shutil.which("redis-server") or "absent"},
        {"rounds": found},
    )
