"""kill -9 right after the last of 5,000 calls: how many events can be read afterwards."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

from benchmarks.common import METRICS, broker_process, temporary_home
from benchmarks.frame import Bar, Result, Table

CALLS = 5_000


def publish_and_die(home: str) -> None:
    import trainbus

    run = trainbus.init("bench", root=Path(home))
    for step in range(CALLS):
        run.step(step, **METRICS)
    os.kill(os.getpid(), signal.SIGKILL)


def survivors(broker_runs: bool) -> int:
    """Steps that a reader finds, once each and in order, after the spool was drained."""
    from trainbus import Subscriber
    from trainbus.bus.drain import drain_orphans

    with temporary_home() as home:
        process = multiprocessing.get_context("spawn").Process(target=publish_and_die, args=(str(home),))
        if broker_runs:
            with broker_process(home):
                process.start()
                process.join()
        else:
            process.start()
            process.join()
        with broker_process(home):
            drain_orphans(home)
            steps = []
            with Subscriber(kinds=["step"], root=home) as subscriber:
                while (event := subscriber.next(2.0)) is not None:
                    steps.append(getattr(event, "step", -1))
    if steps != sorted(set(steps)):
        raise SystemExit("events came twice or out of order")
    return len(steps)


def bench(quick: bool) -> Result:
    rounds = 1 if quick else 5
    found = {
        "no broker, started afterwards": [survivors(broker_runs=False) for _ in range(rounds)],
        "broker running": [survivors(broker_runs=True) for _ in range(rounds)],
    }
    rows: list[list[str | float | int]] = [[name, CALLS, min(counts), len(counts)] for name, counts in found.items()]
    return Result(
        "kill -9",
        "A process makes 5,000 calls and kills itself with SIGKILL after the last. Then its spool is drained and a subscriber counts.",
        [Table("events that can be read afterwards", ["", "calls", "readable (fewest of the rounds)", "rounds"], rows)],
        [Bar("readable after kill -9", min(min(counts) for counts in found.values()), CALLS, "events", at_most=False)],
        data={"rounds": found},
    )
