"""Replay into a late subscriber, beside the machine's limit: one SQLite query whose rows are decoded in the same process."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from benchmarks.common import METRICS, broker, spread
from benchmarks.frame import Bar, Result, Table

BAR = 200_000


def replay(home: Path, events: int, *, decoded: bool) -> tuple[float, float]:
    """Events a second into a subscriber that starts at the beginning, and its own processor time for one in µs."""
    from trainbus import Subscriber

    begin, used = time.perf_counter(), time.process_time()
    count = 0
    with Subscriber(kinds=["step"], root=home, decode=decoded) as subscriber:  # type: ignore[call-overload]
        for _ in subscriber:
            count += 1
            if count == events:
                break
    return events / (time.perf_counter() - begin), (time.process_time() - used) / events * 1e6


def sqlite_limit(events: int) -> tuple[float, float]:
    """The same figures for a bare table read by one query and decoded, nothing between."""
    from trainbus.bus.events import Step, decode, encode

    body = encode(Step(run="bench", source="0123456789abcdef", seq=1, time=time.time_ns(), step=1, metrics=METRICS))
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE events (offset INTEGER PRIMARY KEY, body BLOB)")
    connection.executemany("INSERT INTO events VALUES (?, ?)", ((number, body) for number in range(events)))
    begin, used = time.perf_counter(), time.process_time()
    for offset, found in connection.execute("SELECT offset, body FROM events ORDER BY offset"):
        decode(found, offset)
    connection.close()
    return events / (time.perf_counter() - begin), (time.process_time() - used) / events * 1e6


def bench(quick: bool) -> Result:
    from trainbus import Publisher
    from trainbus.bus.events import Step

    rounds, events = (1, 50_000) if quick else (4, 300_000)
    found: dict[str, list[tuple[float, float]]] = {
        "decoded events": [],
        "undecoded (offset, body)": [],
        "SQLite in one process (limit)": [],
    }
    with broker() as home:
        publisher = Publisher("bench", root=home)
        for step in range(events):
            publisher.publish(Step(step=step, metrics=METRICS))
        if not publisher.close(300):
            raise SystemExit("the journal could not be filled")
        for _ in range(rounds):
            found["decoded events"].append(replay(home, events, decoded=True))
            found["undecoded (offset, body)"].append(replay(home, events, decoded=False))
            found["SQLite in one process (limit)"].append(sqlite_limit(events))
    best = {name: max(one[0] for one in measured) for name, measured in found.items()}
    limit = best["SQLite in one process (limit)"]
    rows: list[list[str | float | int]] = [
        [name, best[name], f"{best[name] / limit:.2f}", min(one[1] for one in measured), spread([one[0] for one in measured], 0)]
        for name, measured in found.items()
    ]
    columns = ["reader", "events/s", "of the limit", "its processor time, µs an event", "over the rounds"]
    return Result(
        "Replay",
        f"{events:,} step events with ten metrics, from a broker's journal into a subscriber in another process; in turn, {rounds} rounds.",
        [Table("replay", columns, rows)],
        [Bar("replay into a late subscriber", best["decoded events"], BAR, "events/s", at_most=False)],
        data={"rounds": found},
    )
