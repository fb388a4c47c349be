"""What the benchmarks share: figures, processes, brokers and other servers in temporary homes."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import queue
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.frame import RESULTS, Table, load, machine, markdown

METRICS = {
    name: 0.1 * number
    for number, name in enumerate(
        ("loss", "learning_rate", "grad_norm", "tokens_per_second", "samples_per_second", "accuracy", "entropy", "memory", "epoch", "mfu"),
        1,
    )
}
"""Ten metrics, as a training step has them."""

CHILD_SECONDS = 300
"""A child that takes longer has hung."""


def percentile(values: Sequence[float], fraction: float) -> float:
    """The value below which ``fraction`` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def figures(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99, max and mean."""
    return {
        "p50": percentile(values, 0.50),
        "p95": percentile(values, 0.95),
        "p99": percentile(values, 0.99),
        "max": max(values),
        "mean": statistics.fmean(values),
    }


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Smallest to largest of some rounds."""
    return f"{min(values):,.{digits}f} to {max(values):,.{digits}f}"


def paced(count: int, rate: float, act: Callable[[int], object]) -> None:
    """Call ``act`` ``count`` times, ``rate`` times a second."""
    begin = time.perf_counter()
    for number in range(count):
        time.sleep(max(0.0, begin + number / rate - time.perf_counter()))
        act(number)


def _child(results: Any, function: Callable[..., object], arguments: tuple[object, ...], exits: bool) -> None:
    results.put(function(*arguments))
    results.close()
    results.join_thread()
    if not exits:
        os._exit(0)  # some peers go on uploading, or talking, at exit
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)


def in_a_process(function: Callable[..., Any], *arguments: object, seconds: float = CHILD_SECONDS, exits: bool = False) -> Any:
    """The function's result, computed in a fresh process, which may take so long; with ``exits`` it ends as programs do."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_child, args=(results, function, arguments, exits))
    process.start()
    end = time.monotonic() + seconds
    try:
        while True:
            dead = not process.is_alive()
            try:
                return results.get(timeout=0.05)
            except queue.Empty:
                if dead or time.monotonic() > end:
                    raise SystemExit(f"{function.__name__}{arguments} gave no result") from None
    finally:
        process.join(CHILD_SECONDS if exits else 2)
        process.kill()


@contextlib.contextmanager
def temporary_home() -> Iterator[Path]:
    """A TRAINBUS_HOME of its own."""
    with tempfile.TemporaryDirectory(prefix="trainbus-bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def broker_process(home: Path, **bus: object) -> Iterator[subprocess.Popen[bytes]]:
    """A real broker that listens when this yields; it may be killed or stopped meanwhile."""
    command = [sys.executable, "-m", "trainbus.bus.broker", "--root", str(home), "--config", json.dumps(bus)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit("the broker did not start")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
        process.terminate()
        process.wait(10)
        process.stdout.close()


@contextlib.contextmanager
def broker(**bus: object) -> Iterator[Path]:
    """A real broker process in a home of its own; yields the home."""
    with temporary_home() as home, broker_process(home, **bus):
        yield home


def free_port() -> int:
    """A port that the system says is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
        if time.monotonic() > end:
            raise SystemExit("a server did not start")
        time.sleep(0.05)


@contextlib.contextmanager
def server(command: list[str], ready: Callable[[], object], deadline: float = 15.0) -> Iterator[None]:
    """A server's process, which has so many seconds to begin."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(ready, deadline)
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


@contextlib.contextmanager
def redis_server() -> Iterator[int]:
    """A Redis that flushes each write to disk before it answers; yields its port."""
    import redis

    port = free_port()
    with temporary_home() as folder:
        arguments = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes", "--appendfsync", "always"]
        with server(["redis-server", *arguments, "--save", ""], lambda: redis.Redis(port=port).ping()):
            yield port


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str | float | int]]) -> None:
    """Print a table, for a benchmark that is run by itself."""
    print(markdown(Table(title, list(columns), [list(row) for row in rows])))


def save(name: str, result: dict[str, object]) -> None:
    """Keep the figures of a benchmark that is run by itself, beside those of the report."""
    RESULTS.mkdir(exist_ok=True)
    facts = {"benchmark": name, "machine": machine(), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "load": load()}
    (RESULTS / f"{name}.json").write_text(json.dumps(facts | result, indent=2) + "\n")
