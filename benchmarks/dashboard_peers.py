"""The dashboard beside others that people watch a training with, on the same points: time to the first chart, bytes until then.

Each has read its data before it is visited; each visit is a new browser context without a cache. Contenders take turns.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import METRICS, free_port, percentile, spread, wait_until
from benchmarks.dashboard import DRAWN, SPIKES, served
from benchmarks.frame import Bar, Result, Table

PEERS_PYTHON = Path(__file__).parent.parent / ".venv-bench" / "bin" / "python"
"""`make bench` makes it; another one by BENCH_PYTHON."""

READY_SECONDS = 300.0
DRAWN_MS = 120_000

WRITE = """
import math, sys
METRICS, STEPS, SPIKES = {metrics!r}, {steps}, {spikes!r}
def row(step):
    return {{name: 100.0 if name == "loss" and step in SPIKES else value + 0.3 * math.sin(step * 0.37) for name, value in METRICS.items()}}
"""

TENSORBOARD = """
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
writer = EventFileWriter(sys.argv[1], max_queue_size=1000, flush_secs=5)
for step in range(1, STEPS + 1):
    values = [Summary.Value(tag=name, simple_value=value) for name, value in row(step).items()]
    writer.add_event(Event(wall_time=1.7e9 + step / 100, step=step, summary=Summary(value=values)))
writer.close()
"""

TRACKIO = """
import os
os.environ |= {"TRACKIO_DIR": sys.argv[1], "HF_HUB_OFFLINE": "1"}
import trackio
from trackio.sqlite_storage import SQLiteStorage
trackio.init(project="bench", name="long", embed=False, auto_log_gpu=False, auto_log_cpu=False)
trackio.finish()
for begin in range(1, STEPS + 1, 5000):
    steps = list(range(begin, min(begin + 5000, STEPS + 1)))
    SQLiteStorage.bulk_log("bench", "long", [row(step) for step in steps], steps=steps)
"""

SHOW_TRACKIO = """
import os, sys
os.environ |= {"TRACKIO_DIR": sys.argv[1], "HF_HUB_OFFLINE": "1"}
import trackio
trackio.show(project="bench", open_browser=False, block_thread=True, server_port=int(sys.argv[2]))
"""


def peers_python() -> str:
    """The interpreter that has the peers."""
    return os.environ.get("BENCH_PYTHON") or (str(PEERS_PYTHON) if PEERS_PYTHON.exists() else sys.executable)


@contextlib.contextmanager
def peer(folder: Path, write: str, command: list[str], ready: tuple[str, str], port: int, steps: int) -> Iterator[psutil.Process]:
    """A peer's server that answers ``ready``: a path, and what must stand there. Raises RuntimeError when it is not installed."""
    spikes = tuple(int(steps * place) for place in SPIKES)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    script = WRITE.format(metrics=METRICS, steps=steps, spikes=spikes) + write
    made = subprocess.run([peers_python(), "-c", script, str(folder)], env=environment, capture_output=True, text=True, check=False)
    if made.returncode:
        raise RuntimeError((made.stderr.strip().splitlines() or ["?"])[-1])
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        server = subprocess.Popen([peers_python(), *command], env=environment, stdout=log, stderr=log)
    try:
        path, word = ready
        wait_until(lambda: word in _text(f"http://127.0.0.1:{port}{path}"), READY_SECONDS)
        yield psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait(30)


def _text(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def visit(browser: Any, url: str, drawn: str) -> tuple[float, int]:
    """Milliseconds from navigation until ``drawn`` holds, and bytes that came until then."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    line = context.new_cdp_session(page)
    line.send("Network.enable")
    sizes: list[float] = []
    line.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    begin = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.wait_for_function(drawn, timeout=DRAWN_MS)
    taken = (time.perf_counter() - begin) * 1e3
    context.close()
    return taken, round(sum(sizes))


def memory(process: psutil.Process) -> float:
    """Megabytes of a process and its children."""
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 1e6


LINE_CHART = "() => document.querySelector('line-chart line-chart-axis text, line-chart svg path')"
TRACKIO_CHART = "() => document.querySelector('.vega-embed canvas, .vega-embed svg, svg.marks, canvas.marks, .plot canvas, .plot svg')"


def bench(quick: bool) -> Result:
    from playwright.sync_api import sync_playwright

    steps, rounds = (10_000, 3) if quick else (100_000, 5)
    found: dict[str, tuple[str, str]] = {}
    servers: dict[str, psutil.Process] = {}
    absent: dict[str, str] = {}
    rows: list[list[str | float | int]] = []
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as stack:
        (_, url, _) = stack.enter_context(served(steps))
        found["trainbus"] = (url, DRAWN)
        board, track = free_port(), free_port()
        logs, runs = Path(home) / "tensorboard", Path(home) / "trackio"
        for name, make, address, drawn in (
            (
                "tensorboard",
                peer(
                    logs, TENSORBOARD, ["-m", "tensorboard.main", "--logdir", str(logs), "--port", str(board), "--host", "127.0.0.1"],
                    ("/data/plugin/scalars/tags", "loss"), board, steps,
                ),
                f"http://127.0.0.1:{board}/", LINE_CHART,
            ),
            (
                "trackio",
                peer(runs, TRACKIO, ["-c", SHOW_TRACKIO, str(runs), str(track)], ("/", "<html"), track, steps),
                f"http://127.0.0.1:{track}/?project=bench", TRACKIO_CHART,
            ),
        ):  # fmt: skip
            try:
                servers[name] = stack.enter_context(make)
                found[name] = (address, drawn)
            except (RuntimeError, TimeoutError, AssertionError) as error:
                absent[name] = f"absent: {error}"
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        visits: dict[str, list[tuple[float, int]]] = {name: [] for name in found}
        for _ in range(rounds):
            for name, (address, drawn) in found.items():
                visits[name].append(visit(browser, address, drawn))
        browser.close()
        for name, seen in visits.items():
            times = [taken for taken, _ in seen]
            size = memory(servers[name]) if name in servers else "in this process"
            rows.append([name, percentile(times, 0.5), spread(times, 0), max(moved for _, moved in seen) // 1000, size])
    ours = percentile([taken for taken, _ in visits["trainbus"]], 0.5)
    others = [percentile([taken for taken, _ in seen], 0.5) for name, seen in visits.items() if name != "trainbus"]
    return Result(
        "Dashboard beside others",
        f"A run of {steps:,} steps with ten metrics, read by each before the first visit; {rounds} visits each, in turn.",
        [Table("first chart", ["", "ms, median", "over the rounds", "kB until then", "memory of the server, MB"], rows)],
        [Bar("first chart, as a share of the fastest other one", ours / min(others), 1.0, "")] if others else [],
        peers=dict.fromkeys(servers, "measured") | absent,
        data={name: [list(one) for one in seen] for name, seen in visits.items()},
    )
