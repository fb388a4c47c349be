"""What one ``run.step(step, **ten_metrics)`` costs the training thread, beside trackio and tensorboard.

Each contender runs in a process of its own, all of them in turn, several rounds long. Two paces: a tight loop, and 100 calls a second,
where between two calls every line of code and data leaves the processor's caches, as it does between two steps of a model.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.common import METRICS, broker_process, figures, in_a_process, spread, temporary_home
from benchmarks.frame import Bar, Result, Table, absent_or_version

Call = Callable[[int], object]
WARM_UP = 500
TIGHT_SECONDS = 4.0
"""A slow contender's tight loop ends after this time, with fewer calls."""
RATE = 100
P50_BAR_US, P99_BAR_US, SHARE_BAR = 5.0, 25.0, 0.5


@contextlib.contextmanager
def empty_call() -> Iterator[Call]:
    def call(number: int) -> None:
        take(number, **METRICS)

    def take(step: int, **metrics: float) -> None:
        pass

    yield call


@contextlib.contextmanager
def memory_copy() -> Iterator[Call]:
    """The least that keeping 300 bytes safe from kill -9 can cost."""
    size, body = 8 * 1024 * 1024, bytes(300)
    with tempfile.TemporaryFile() as file:
        os.posix_fallocate(file.fileno(), 0, size)
        memory = mmap.mmap(file.fileno(), size)
        memory[:] = bytes(size)

        def call(number: int) -> None:
            start = number * 300 % (size - 300)
            memory[start : start + 300] = body

        yield call


@contextlib.contextmanager
def trainbus_run(home: Path, before: Callable[[], None] = lambda: None) -> Iterator[Call]:
    import trainbus

    logging.disable(logging.WARNING)
    run = trainbus.init("bench", root=home)
    run.flush(5)
    before()

    def call(number: int) -> None:
        run.step(number, **METRICS)

    yield call
    stats = run.stats()
    assert stats.errors == 0, stats
    run.close(timeout=0.5)


@contextlib.contextmanager
def no_broker() -> Iterator[Call]:
    with temporary_home() as home, trainbus_run(home) as call:
        yield call


@contextlib.contextmanager
def with_broker() -> Iterator[Call]:
    with temporary_home() as home, broker_process(home), trainbus_run(home) as call:
        yield call


@contextlib.contextmanager
def broker_killed() -> Iterator[Call]:
    with temporary_home() as home, broker_process(home) as process, trainbus_run(home, process.kill) as call:
        yield call


@contextlib.contextmanager
def broker_frozen() -> Iterator[Call]:
    with temporary_home() as home, broker_process(home) as process, trainbus_run(home, lambda: process.send_signal(signal.SIGSTOP)) as call:
        yield call


READ = """
import sys, trainbus
from pathlib import Path
with trainbus.Subscriber(root=Path(sys.argv[1])) as events:
    print("up", flush=True)
    for event in events:
        pass
"""


@contextlib.contextmanager
def plugin_frozen() -> Iterator[Call]:
    """A reader of everything, stopped by SIGSTOP."""
    with temporary_home() as home, broker_process(home):
        reader = subprocess.Popen([sys.executable, "-c", READ, str(home)], stdout=subprocess.PIPE)
        try:
            assert reader.stdout is not None
            reader.stdout.readline()
            reader.send_signal(signal.SIGSTOP)
            with trainbus_run(home) as call:
                yield call
        finally:
            reader.kill()
            reader.wait()


@contextlib.contextmanager
def disk_full() -> Iterator[Call]:
    from trainbus.bus import publisher

    def refuse(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    defaults = publisher.Publisher.__init__.__kwdefaults__
    assert defaults is not None
    defaults["allocate"] = refuse
    with temporary_home() as home, trainbus_run(home) as call:
        yield call


@contextlib.contextmanager
def trackio() -> Iterator[Call]:
    folder = tempfile.mkdtemp(prefix="trackio-bench-")
    os.environ |= {"TRACKIO_DIR": folder, "HF_HUB_OFFLINE": "1"}
    import trackio as peer

    with contextlib.redirect_stdout(io.StringIO()):
        peer.init(project="bench", embed=False, auto_log_gpu=False, auto_log_cpu=False)

    def call(number: int) -> None:
        peer.log(METRICS, step=number)

    yield call
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def tensorboard() -> Iterator[Call]:
    from torch.utils.tensorboard import SummaryWriter

    folder = tempfile.mkdtemp(prefix="tensorboard-bench-")
    writer = SummaryWriter(folder)

    def call(number: int) -> None:
        for name, value in METRICS.items():
            writer.add_scalar(name, value, number)

    yield call
    writer.close()
    shutil.rmtree(folder, ignore_errors=True)


LIMITS = {"empty call (limit)": empty_call, "memory copy (limit)": memory_copy}
OURS = {
    "trainbus": with_broker,
    "trainbus, no broker": no_broker,
    "trainbus, broker killed": broker_killed,
    "trainbus, broker frozen": broker_frozen,
    "trainbus, reader frozen": plugin_frozen,
    "trainbus, disk full": disk_full,
}
PEERS = {"trackio": trackio, "tensorboard": tensorboard}
CASES = LIMITS | OURS | PEERS


def timed(call: Call, calls: int, pause: float, seconds: float) -> dict[str, float]:
    """Microseconds a call."""
    clock, taken = time.perf_counter_ns, []
    end = time.monotonic() + seconds
    for number in range(calls):
        if pause:
            time.sleep(pause)
        elif number % 256 == 0 and time.monotonic() > end:
            break
        before = clock()
        call(number)
        taken.append((clock() - before) / 1_000)
    return figures(taken)


def measure(case: str, calls: int, paced_calls: int) -> dict[str, dict[str, float]] | None:
    """One contender, one round; None when it is not installed."""
    try:
        with CASES[case]() as call:
            timed(call, WARM_UP, 0, 1.0)
            tight = timed(call, calls, 0, TIGHT_SECONDS)
            return {"paced": timed(call, paced_calls, 1 / RATE, 0), "tight": tight}
    except ImportError:
        return None


def bench(quick: bool) -> Result:
    rounds, calls, paced_calls = (1, 20_000, 150) if quick else (4, 50_000, 250)
    found: dict[str, list[dict[str, dict[str, float]]]] = {}
    for _ in range(rounds):
        for case in CASES:
            if (measured := in_a_process(measure, case, calls, paced_calls)) is not None:
                found.setdefault(case, []).append(measured)

    def best(case: str, pace: str, figure: str) -> float:
        return min(one[pace][figure] for one in found[case])

    tables = []
    for pace, title in (("tight", "tight loop"), ("paced", f"{RATE} calls a second")):
        peers = [best(case, pace, "p50") for case in PEERS if case in found]
        rows: list[list[str | float | int]] = [
            [
                case,
                *(best(case, pace, figure) for figure in ("p50", "p95", "p99")),
                spread([one[pace]["p50"] for one in found[case]]),
                f"{best(case, pace, 'p50') / min(peers):.2f}" if peers else "-",
            ]
            for case in CASES
            if case in found
        ]
        columns = ["", "p50", "p95", "p99", "p50 over the rounds", "p50 / cheapest peer's"]
        tables.append(Table(f"µs a call with ten metrics, {title}, best of {rounds} rounds", columns, rows))
    bars = []
    for case in OURS:
        bars.append(Bar(f"{case}, tight loop, p50", best(case, "tight", "p50"), P50_BAR_US, "µs"))
        bars.append(Bar(f"{case}, tight loop, p99", best(case, "tight", "p99"), P99_BAR_US, "µs"))
    if peers := [best(case, "paced", "p50") for case in PEERS if case in found]:
        share = best("trainbus", "paced", "p50") / min(peers)
        bars.append(Bar(f"trainbus, {RATE} calls a second, p50 as a share of the cheapest peer's", share, SHARE_BAR, ""))
    return Result(
        "Publishing",
        "Time of one call with ten metrics in the thread that trains. Each contender runs in its own process, in turn, round after round.",
        tables,
        bars,
        {"trackio": absent_or_version("trackio"), "tensorboard": absent_or_version("tensorboard")},
        {"rounds": found},
    )
