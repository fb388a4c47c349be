"""The dashboard beside others that people watch a training with, on the same points: time to the first chart, bytes until then, and how
many of four planted extremes, each of one step, are among the points that the page is given to draw.

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
from playwright.sync_api import Error, TimeoutError, sync_playwright

from benchmarks.common import METRICS, free_port, percentile, spread, wait_until
from benchmarks.dashboard import DRAWN, EXTREMES, planted, served
from benchmarks.frame import Bar, Result, Table

PEERS_PYTHON = Path(__file__).parent.parent / ".venv-bench" / "bin" / "python"
"""`make bench` makes it; another one by BENCH_PYTHON."""

READY_SECONDS = 1_200.0
DRAWN_MS = 120_000
"""A chart that has not come by then counts as one that came then."""
SETTLED_MS = 5_000
"""A page may ask for more points after its first chart."""

WRITE = """
import math, sys
METRICS, STEPS, SPIKES = {metrics!r}, {steps}, {spikes!r}
def row(step):
    found = {{name: value + 0.3 * math.sin(step * 0.37) for name, value in METRICS.items()}}
    return found | {{"loss": SPIKES.get(step, found["loss"])}}
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


def _environment() -> dict[str, str]:
    """Without this tree: the peers stand in an environment of their own."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def writing(folder: Path, write: str, steps: int) -> subprocess.Popen[str]:
    """A process that writes the points in a peer's own way."""
    script = WRITE.format(metrics=METRICS, steps=steps, spikes=planted(steps)) + write
    command = [peers_python(), "-c", script, str(folder)]
    return subprocess.Popen(command, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def version(name: str) -> str:
    """A peer's version."""
    command = [peers_python(), "-c", f"import importlib.metadata as m; print(m.version({name!r}))"]
    return subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False).stdout.strip() or "?"


@contextlib.contextmanager
def peer(folder: Path, writer: subprocess.Popen[str], command: list[str], ready: tuple[str, str], port: int) -> Iterator[psutil.Process]:
    """A peer's server that answers ``ready``: a path, and what must stand there. Raises RuntimeError when it is not installed."""
    told = writer.communicate()[1]
    if writer.returncode:
        raise RuntimeError((told.strip().splitlines() or ["?"])[-1])
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        server = subprocess.Popen([peers_python(), *command], env=_environment(), stdout=log, stderr=log)
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
    with contextlib.suppress(TimeoutError):
        page.goto(url, wait_until="commit", timeout=DRAWN_MS)
        page.wait_for_function(drawn, timeout=DRAWN_MS)
    taken = (time.perf_counter() - begin) * 1e3
    context.close()
    return taken, round(sum(sizes))


def extremes(browser: Any, url: str, drawn: str) -> int:
    """How many of the planted extremes a page is given at once, among the points of the whole run."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    answers: list[Any] = []
    page.on("response", lambda answer: answers.append(answer))
    with contextlib.suppress(TimeoutError):
        page.goto(url, wait_until="commit", timeout=DRAWN_MS)
        page.wait_for_function(drawn, timeout=DRAWN_MS)
        page.wait_for_timeout(SETTLED_MS)
    seen: set[float] = set()
    for answer in answers:
        with contextlib.suppress(Error, UnicodeDecodeError):  # a stream that goes on, or a body that the browser has let go
            if "event-stream" not in answer.headers.get("content-type", ""):
                text = answer.text()
                seen |= {value for value in EXTREMES if str(value) in text}
    page.context.close()
    return len(seen)


def memory(process: psutil.Process) -> float:
    """Megabytes of a process and its children."""
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 1e6


LINE_CHART = "() => document.querySelector('line-chart line-chart-axis text, line-chart svg path')"
TRACKIO_CHART = "() => document.querySelector('.vega-embed canvas, .vega-embed svg, svg.marks, canvas.marks, .plot canvas, .plot svg')"


def bench(quick: bool) -> Result:
    steps, rounds = (10_000, 3) if quick else (1_000_000, 3)
    found: dict[str, tuple[str, str]] = {}
    servers: dict[str, psutil.Process] = {}
    absent: dict[str, str] = {}
    rows: list[list[str | float | int]] = []
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as stack:
        board, track = free_port(), free_port()
        logs, runs = Path(home) / "tensorboard", Path(home) / "trackio"
        # Before the first visit all may work at once.
        writers = {"tensorboard": writing(logs, TENSORBOARD, steps), "trackio": writing(runs, TRACKIO, steps)}
        (_, url, _) = stack.enter_context(served(steps))
        found["trainbus"] = (url, DRAWN)
        for name, make, address, drawn in (
            (
                "tensorboard",
                peer(
                    logs, writers["tensorboard"],
                    ["-m", "tensorboard.main", "--logdir", str(logs), "--port", str(board), "--host", "127.0.0.1"],
                    ("/data/plugin/scalars/tags", "loss"), board,
                ),
                f"http://127.0.0.1:{board}/", LINE_CHART,
            ),
            (
                "trackio",
                peer(runs, writers["trackio"], ["-c", SHOW_TRACKIO, str(runs), str(track)], ("/", "<html"), track),
                f"http://127.0.0.1:{track}/?project=bench", TRACKIO_CHART,
            ),
        ):  # fmt: skip
            try:
                servers[name] = stack.enter_context(make)
                found[name] = (address, drawn)
            except (RuntimeError, SystemExit) as error:
                absent[name] = f"absent: {error}"
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        visits: dict[str, list[tuple[float, int]]] = {name: [] for name in found}
        for _ in range(rounds):
            for name, (address, drawn) in found.items():
                visits[name].append(visit(browser, address, drawn))
        shown = {name: extremes(browser, address, drawn) for name, (address, drawn) in found.items()}
        browser.close()
        for name, seen in visits.items():
            times = [taken for taken, _ in seen]
            size = memory(servers[name]) if name in servers else "in this process"
            moved = max(size for _, size in seen) // 1000
            rows.append([name, percentile(times, 0.5), spread(times, 0), moved, size, f"{shown[name]} of {len(EXTREMES)}"])
    ours = percentile([taken for taken, _ in visits["trainbus"]], 0.5)
    lost = len(EXTREMES) - shown["trainbus"]
    others = [percentile([taken for taken, _ in seen], 0.5) for name, seen in visits.items() if name != "trainbus"]
    return Result(
        "Dashboard beside others",
        f"A run of {steps:,} steps with ten metrics, read by each before the first visit; {rounds} visits each, in turn. Four steps "
        "have an extreme loss; counted is how many of them the page is given for its view of the whole run.",
        [
            Table(
                "first chart",
                ["", "ms, median", "over the rounds", "kB until then", "memory of the server, MB", "extremes that the page is given"],
                rows,
            )
        ],
        [
            *([Bar("first chart, as a share of the fastest other one", ours / min(others), 1.0, "")] if others else []),
            Bar("extremes that the first chart lost", float(lost), 0.0, ""),
        ],
        peers={name: version(name) for name in servers} | absent,
        data={name: [list(one) for one in seen] for name, seen in visits.items()},
    )
