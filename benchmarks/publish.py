"""What one `run.step(step, **ten_metrics)` costs the training thread.

    python benchmarks/publish.py [--calls 200000] [--paced 500] [--json FILE]

Each case runs in a process of its own: broker dead, disk full (reserving blocks fails), a broker that takes everything, one that takes
and never answers. Limits measured in the same run: a bare copy of the same bytes into mapped memory, and `queue.SimpleQueue.put` of the
same event. Bars: p50 <= 5 us and p99 <= 25 us in a tight loop, whatever the broker and the disk do.
"""

from __future__ import annotations

import argparse
import errno
import json
import logging
import mmap
import multiprocessing
import os
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from trainbus.bus import events, wire
from trainbus.bus.home import Connection, write_connection

METRICS = {f"metric_{number}": 0.1 * number for number in range(10)}
PACE_SECONDS = 0.01
WARM_UP = 2_000
P50_BAR_US, P99_BAR_US = 5.0, 25.0

Call = Callable[[int], Any]


def percentiles(nanoseconds: list[int]) -> dict[str, float]:
    ordered = sorted(nanoseconds)
    at = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
    return {name: ordered[int(share * (len(ordered) - 1))] / 1_000 for name, share in at.items()} | {"max": ordered[-1] / 1_000}


def tight(call: Call, calls: int) -> dict[str, float]:
    clock, taken = time.perf_counter_ns, []
    for number in range(WARM_UP):
        call(number)
    for number in range(calls):
        before = clock()
        call(number)
        taken.append(clock() - before)
    return percentiles(taken)


def paced(call: Call, calls: int) -> dict[str, float]:
    clock, taken = time.perf_counter_ns, []
    for number in range(calls):
        time.sleep(PACE_SECONDS)
        before = clock()
        call(number)
        taken.append(clock() - before)
    return percentiles(taken)


def broker(root: str, answers: bool) -> None:
    """A ROUTER that acknowledges at once, or (a frozen broker) takes and says nothing after the Welcome."""
    router = zmq.Context().socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    write_connection(Connection(router=f"tcp://127.0.0.1:{port}", xpub="", journal="bench", pid=os.getpid()), Path(root))
    while True:
        peer, frame = router.recv_multipart()
        message = wire.decode_message(frame)
        answer: wire.Message | None = None
        if isinstance(message, wire.Hello):
            answer = wire.Welcome(journal="bench", source=message.source, expected=0)
        elif isinstance(message, wire.Events) and answers:
            answer = wire.Ack(source=message.source, expected=message.first + len(message.bodies))
        elif isinstance(message, wire.Skipped) and answers:
            answer = wire.Ack(source=message.source, expected=message.last + 1)
        if answer is not None:
            router.send_multipart([peer, wire.encode(answer)])


def full_disk(fd: int, offset: int, length: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def measure_run(case: str, calls: int, paced_calls: int) -> dict[str, Any]:
    import trainbus
    from trainbus.bus import publisher

    with tempfile.TemporaryDirectory() as root:
        server = None
        if case in ("broker", "frozen broker"):
            server = multiprocessing.get_context("spawn").Process(target=broker, args=(root, case == "broker"), daemon=True)
            server.start()
            while not Path(root, "bus.json").exists():
                time.sleep(0.01)
        if case == "disk full":
            publisher.Publisher.__init__.__kwdefaults__["allocate"] = full_disk
        run = trainbus.init("bench", root=Path(root))
        time.sleep(0.5)

        def call(number: int) -> None:
            run.step(number, **METRICS)

        result = {"tight": tight(call, calls), "paced": paced(call, paced_calls)}
        run.flush(30)
        stats = run.stats()
        result["stats"] = {
            "published": stats.published,
            "acknowledged": stats.acknowledged,
            "dropped": stats.dropped,
            "errors": stats.errors,
        }
        run.close(1)
        if server is not None:
            server.kill()
        return result


def measure_limit(case: str, calls: int, paced_calls: int) -> dict[str, Any]:
    event = events.Step(run="bench", source="0" * 16, seq=1, time=time.time_ns(), step=1, metrics=METRICS)
    if case == "mmap copy":
        body, size = events.encode(event), 64 * 1024 * 1024
        memory = mmap.mmap(-1, size)
        length = len(body)
        memory[:] = bytes(size)

        def call(number: int) -> None:
            start = number * length % (size - length)
            memory[start : start + length] = body

        return {"tight": tight(call, calls), "paced": paced(call, paced_calls)}
    waiting: queue.SimpleQueue[events.Step] = queue.SimpleQueue()

    def drain() -> None:
        while waiting.get() is not None:
            pass

    threading.Thread(target=drain, daemon=True).start()

    def put(number: int) -> None:
        waiting.put(event)

    return {"tight": tight(put, calls), "paced": paced(put, paced_calls)}


CASES: dict[str, Callable[[str, int, int], dict[str, Any]]] = {
    "mmap copy": measure_limit,
    "SimpleQueue.put": measure_limit,
    "no broker": measure_run,
    "disk full": measure_run,
    "broker": measure_run,
    "frozen broker": measure_run,
}


def in_a_process(case: str, calls: int, paced_calls: int, results: Any) -> None:
    logging.disable(logging.WARNING)
    results.put(CASES[case](case, calls, paced_calls))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200_000, help="calls in a tight loop")
    parser.add_argument("--paced", type=int, default=500, help="calls at 100 a second")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    found: dict[str, dict[str, Any]] = {}
    print(f"microseconds a call, ten metrics, {options.calls} calls in a tight loop, {options.paced} at 100 a second")
    columns = ("p50", "p95", "p99", "p99.9", "max")
    for mode in ("tight", "paced"):
        print(f"\n{mode:<16}" + "".join(f"{name:>10}" for name in columns) + "   p50 against mmap copy / SimpleQueue.put")
        for case in CASES:
            if case not in found:
                results = context.Queue()
                process = context.Process(target=in_a_process, args=(case, options.calls, options.paced, results))
                process.start()
                found[case] = results.get(timeout=300)
                process.join()
            row = found[case][mode]
            ratios = ""
            if CASES[case] is measure_run:
                ratios = " / ".join(f"{row['p50'] / found[limit][mode]['p50']:.1f}x" for limit in ("mmap copy", "SimpleQueue.put"))
            print(f"{case:<16}" + "".join(f"{row[name]:>10.2f}" for name in columns) + f"   {ratios}")
    print()
    ok = True
    for case in (case for case in CASES if CASES[case] is measure_run):
        row = found[case]["tight"]
        held = row["p50"] <= P50_BAR_US and row["p99"] <= P99_BAR_US
        ok &= held
        print(f"{case:<16} bar p50 <= {P50_BAR_US:g}, p99 <= {P99_BAR_US:g}: {'held' if held else 'MISSED'}   {found[case]['stats']}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
