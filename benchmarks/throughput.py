"""Durable throughput: publisher → durable log → one subscriber, beside Redis streams and NATS JetStream.

Each contender has one publishing process and one subscribing process, and flushes to disk before it acknowledges
(trainbus: SQLite synchronous=FULL; Redis: appendfsync always; JetStream: sync_interval always). Time runs from
the first publish to the last event received. Limits of the machine in the same run: SQLite inserts in batches of
1,000 with synchronous=FULL, bare pyzmq PUSH → PULL. Usage: python benchmarks/throughput.py [EVENTS]
"""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import METRICS, broker, save, table

from trainbus.bus.events import Step, encode

EVENTS = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 200_000
BODY = encode(Step(run="bench", source="0123456789abcdef", seq=123_456, time=time.time_ns(), step=123_456, metrics=METRICS))


def free_port() -> int:
    """A port that the system says is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def timed(subscribe: Callable[..., None], publish: Callable[..., None], *arguments: object) -> float:
    """Events a second from the first publish to the last event received, in two processes."""
    context = multiprocessing.get_context("spawn")
    ready, finished = context.Event(), context.Value("d", 0.0)
    reader = context.Process(target=subscribe, args=(ready, finished, *arguments))
    reader.start()
    ready.wait(30)
    begin = context.Value("d", 0.0)
    writer = context.Process(target=publish, args=(begin, *arguments))
    writer.start()
    writer.join()
    reader.join(300)
    if not finished.value:
        raise SystemExit("the subscriber did not get all events")
    return EVENTS / (finished.value - begin.value)


# --- trainbus ---


def trainbus_subscribe(ready, finished, home):
    from trainbus import Subscriber

    with Subscriber(kinds=["step"], runs=["bench"], start="beginning", root=Path(home), decode=False) as subscriber:
        subscriber.next(timeout=0.5)
        ready.set()
        count = 0
        for count, _ in enumerate(subscriber, 1):
            if count == EVENTS:
                break
        finished.value = time.time()


def trainbus_publish(begin, home):
    from trainbus import Publisher

    publisher = Publisher("bench", root=Path(home))
    publisher.publish(Step(step=-1, metrics={}, run="warm-up"))
    publisher.flush(10)
    begin.value = time.time()
    for step in range(EVENTS):
        publisher.publish(Step(step=step, metrics=METRICS))
    publisher.close(120)


# --- Redis streams ---


def redis_subscribe(ready, finished, port):
    import redis

    client = redis.Redis(port=port)
    last, count = "0", 0
    ready.set()
    while count < EVENTS:
        for _, entries in client.xread({"events": last}, count=5_000, block=10_000):
            count += len(entries)
            last = entries[-1][0]
    finished.value = time.time()


def redis_publish(begin, port):
    import redis

    client = redis.Redis(port=port)
    client.ping()
    begin.value = time.time()
    for start in range(0, EVENTS, 100):
        pipeline = client.pipeline(transaction=False)
        for _ in range(start, min(start + 100, EVENTS)):
            pipeline.xadd("events", {"body": BODY})
        pipeline.execute()


def run_redis() -> float | None:
    server = shutil.which("redis-server")
    if not server:
        return None
    import redis

    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--appendonly", "yes", "--appendfsync", "always"]
        process = subprocess.Popen([server, *arguments, "--save", ""], stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: redis.Redis(port=port).ping())
            return timed(redis_subscribe, redis_publish, port)
        finally:
            process.terminate()
            process.wait()


# --- NATS JetStream ---


def nats_subscribe(ready, finished, port):
    import nats

    async def main():
        client = await nats.connect(f"nats://127.0.0.1:{port}")
        got, done = 0, asyncio.Event()

        async def on_message(message):
            nonlocal got
            got += 1
            if got == EVENTS:
                done.set()

        from nats.js.api import AckPolicy, ConsumerConfig

        stream = client.jetstream()
        await stream.subscribe("events", cb=on_message, config=ConsumerConfig(ack_policy=AckPolicy.NONE))
        ready.set()
        await done.wait()
        finished.value = time.time()
        await client.close()

    asyncio.run(main())


def nats_publish(begin, port):
    import nats

    async def main():
        client = await nats.connect(f"nats://127.0.0.1:{port}")
        stream = client.jetstream()
        begin.value = time.time()
        for start in range(0, EVENTS, 256):
            await asyncio.gather(*(stream.publish("events", BODY, timeout=60) for _ in range(start, min(start + 256, EVENTS))))
        await client.close()

    asyncio.run(main())


def run_nats() -> float | None:
    server = shutil.which("nats-server") or shutil.which("nats-server", path=str(Path(sys.executable).parent))
    if not server:
        return None
    import nats

    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "nats.conf")
        config.write_text(f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{folder}/js", sync_interval: always }}\n')
        process = subprocess.Popen([server, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        async def create():
            client = await nats.connect(f"nats://127.0.0.1:{port}", max_reconnect_attempts=50)
            await client.jetstream().add_stream(name="bench", subjects=["events"])
            await client.close()

        try:
            wait_until(lambda: socket.create_connection(("127.0.0.1", port), 0.2).close() is None)
            asyncio.run(create())
            return timed(nats_subscribe, nats_publish, port)
        finally:
            process.terminate()
            process.wait()


# --- limits of the machine ---


def zmq_pull(ready, finished, port):
    import zmq

    socket_ = zmq.Context().socket(zmq.PULL)
    socket_.bind(f"tcp://127.0.0.1:{port}")
    ready.set()
    for _ in range(EVENTS):
        socket_.recv()
    finished.value = time.time()


def zmq_push(begin, port):
    import zmq

    context = zmq.Context()
    socket_ = context.socket(zmq.PUSH)
    socket_.connect(f"tcp://127.0.0.1:{port}")
    begin.value = time.time()
    for _ in range(EVENTS):
        socket_.send(BODY)
    socket_.close()
    context.term()


def run_sqlite() -> float:
    with tempfile.TemporaryDirectory() as folder:
        database = sqlite3.connect(Path(folder, "limit.db"), isolation_level=None)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE events (offset INTEGER PRIMARY KEY, body BLOB)")
        begin = time.perf_counter()
        for start in range(0, EVENTS, 1_000):
            database.execute("BEGIN")
            database.executemany("INSERT INTO events VALUES (?, ?)", ((offset, BODY) for offset in range(start, start + 1_000)))
            database.execute("COMMIT")
        return EVENTS / (time.perf_counter() - begin)


def wait_until(ready: Callable[[], object], deadline: float = 15.0) -> None:
    """Ask until the answer is true; errors count as no."""
    end = time.monotonic() + deadline
    while True:
        try:
            if ready():
                return
        except Exception:
            if time.monotonic() > end:
                raise
        time.sleep(0.05)


def run_trainbus() -> float:
    with broker() as home:
        return timed(trainbus_subscribe, trainbus_publish, str(home))


def main() -> None:
    rates = {"trainbus": run_trainbus()}
    for name, contender in (("Redis streams", run_redis), ("NATS JetStream", run_nats)):
        try:
            rate = contender()
        except ImportError:
            rate = None
        if rate is not None:
            rates[name] = rate
    limits = {"SQLite FULL, batches of 1,000 (limit)": run_sqlite(), "bare pyzmq (limit)": timed(zmq_pull, zmq_push, free_port())}
    ours = rates["trainbus"]
    rows = [(name, round(rate), f"{ours / rate:.2f}") for name, rate in (rates | limits).items()]
    table(f"Durable throughput, {EVENTS:,} events of {len(BODY)} bytes", ("", "events/s", "trainbus is ... times as fast"), rows)
    save("throughput", {"events": EVENTS, "rates": rates | limits})


if __name__ == "__main__":
    main()
