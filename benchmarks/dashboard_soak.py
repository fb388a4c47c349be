"""The dashboard as people leave it: 50 runs, 5 pages in headless Chromium, 100 events a second from a real bus, for a while.

Processor time is user plus system time of the processes themselves, so that whatever else runs here does not count. What JavaScript holds
is measured after a collection of garbage.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import free_port, temporary_home, wait_until
from benchmarks.frame import Bar, Result, Table
from trainbus.bus.hosting.instance import read_running

RUNS, RATE, STEPS_BEFORE = 50, 100, 400
"""``RATE`` events a second: half of them belong to the run that all pages show, the others go round."""

SERVER_PERCENT, PAGE_PERCENT = 20.0, 30.0
HEAP_MB, SERVER_MB = 3.0, 12.0
"""Growth that is none: the heap of a page moves by this much between two collections, and so do the allocator's pages of the server."""

LONG, SHORT = 3_600.0, 90.0
"""Seconds; `BENCH_SECONDS` sets others."""

POINTS = 300_000
"""Limit of all points in the server: reached within the warm-up, so that what grows then is a leak."""

PATIENCE_MS = 180_000
"""A loaded machine may take its time; no figure depends on it."""

SCREENS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("desktop", {"viewport": {"width": 1440, "height": 900}}),
    ("desktop, dark", {"viewport": {"width": 1440, "height": 900}, "color_scheme": "dark"}),
    ("second screen, every panel in sight", {"viewport": {"width": 1440, "height": 3600}}),
    ("wide", {"viewport": {"width": 1840, "height": 1000}}),
    ("phone", {"viewport": {"width": 375, "height": 800}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}),
)

FEED = """
import sys, time
from trainbus.bus.events import Alert, Memory, RunStarted, Sample, Step, System
from trainbus.bus.publisher import Publisher
runs, rate, before = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
names = [f"run-{number:02d}" for number in range(runs)]
steps = dict.fromkeys(names, 0)
metrics = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "samples_per_second", "entropy", "memory", "mfu", "a", "b")
bus = Publisher("", name="soak")

def step(run):
    steps[run] = at = steps[run] + 1
    values = {name: 1.0 / (1 + at % 97) + place for place, name in enumerate(metrics)}
    return Step(run=run, step=at, total_steps=10**6, tokens=at * 4096, metrics=values)

for run in names:
    bus.publish(RunStarted(run=run, name="soak", host="box", config={"lr": 1e-4}))
    for _ in range(before):
        bus.publish(step(run))
assert bus.flush(120)
print("fed", flush=True)
number, begin = 0, time.monotonic()
while True:
    while number < (time.monotonic() - begin) * rate:
        number += 1
        if number % 100 == 1:
            right = number % 300 == 1
            bus.publish(Sample(run=names[0], step=steps[names[0]], prompt="How many? " * 20, expected="4", answer=str(number),
                               correct=right, loss=0.5, example=f"q{number % 7}", dataset="exam"))
        elif number % 100 == 51:
            bus.publish(System(host="box", risk="low", cpu_percent=40.0, memory=Memory(total=2**35, used=2**34, available=2**34)))
        elif number % 6000 == 99:
            bus.publish(Alert(run=names[0], id=f"spike@{number}", rule="loss_spike", plugin="anomaly", step=steps[names[0]],
                              severity="warning", message="Loss rose"))
        else:
            bus.publish(step(names[0] if number % 2 else names[1 + number // 2 % (runs - 1)]))
    time.sleep(0.01)
"""


@contextlib.contextmanager
def dashboard(points: int = POINTS) -> Iterator[tuple[Path, str, psutil.Process]]:
    """`trainbus up` with the dashboard alone; its home, its address and its process."""
    with temporary_home() as folder:
        home, port, config = folder / "home", free_port(), folder / "trainbus.toml"
        config.write_text(f'plugins = ["web"]\n[plugin.web]\nport = {port}\npoints = {points}\nsamples = 20\n')
        command = [sys.executable, "-m", "trainbus", "up", "--config", str(config)]
        up = subprocess.Popen(command, env=os.environ | {"TRAINBUS_HOME": str(home)}, stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: _web_pid(home), 60)
            yield home, f"http://127.0.0.1:{port}/", psutil.Process(_web_pid(home))
        finally:
            up.terminate()
            up.wait(30)


def _web_pid(home: Path) -> int:
    running = read_running(home)
    found = [plugin.pid for plugin in running.plugins if plugin.state == "running"] if running else []
    return found[0] or 0 if found else 0


@contextlib.contextmanager
def fed(home: Path) -> Iterator[None]:
    """Events of a process of its own; the runs are there when this yields."""
    command = [sys.executable, "-c", FEED, str(RUNS), str(RATE), str(STEPS_BEFORE)]
    process = subprocess.Popen(command, env=os.environ | {"TRAINBUS_HOME": str(home)}, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "fed\n":
            raise SystemExit("nothing was published")
        yield
    finally:
        process.terminate()
        process.wait(30)


def cpu(process: psutil.Process) -> float:
    """Seconds of processor time so far."""
    times = process.cpu_times()
    return times.user + times.system


class Watched:
    """One page in a browser of its own, as on another machine: what it costs, and what its JavaScript holds."""

    def __init__(self, playwright: Any, url: str, name: str, options: dict[str, Any]) -> None:
        self.name = name
        self.problems: list[str] = []
        self.browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        self.page = self.browser.new_context(**options).new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda said: self.problems.append(said.text) if said.type in ("error", "warning") else None)
        self.page.goto(f"{url}#run=run-00")
        self.page.wait_for_function("() => /at step/.test(document.querySelector('#chart-loss [role=img]')?.ariaLabel)")
        self._line = self.page.context.new_cdp_session(self.page)
        self._line.send("Performance.enable")
        self._whole = self.browser.new_browser_cdp_session()

    def spent(self) -> dict[str, float]:
        """Seconds of processor time by kind of process: the renderer is the page, the GPU process paints, without a graphics card too."""
        spent: dict[str, float] = {}
        for each in self._whole.send("SystemInfo.getProcessInfo")["processInfo"]:
            spent[each["type"]] = spent.get(each["type"], 0.0) + each["cpuTime"]
        return spent

    def held(self) -> dict[str, float]:
        """Heap in MB, nodes of the document, listeners; after a collection of garbage."""
        self._line.send("HeapProfiler.collectGarbage")
        found = {each["name"]: each["value"] for each in self._line.send("Performance.getMetrics")["metrics"]}
        return {"heap": found["JSHeapUsedSize"] / 1e6, "nodes": found["Nodes"], "listeners": found["JSEventListeners"]}


class Soaked:
    """What was measured over ``seconds``: percent of one core, and what was held from look to look."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.server = 0.0
        self.pages: dict[str, dict[str, float]] = {}
        self.rss: list[float] = []
        self.held: dict[str, list[dict[str, float]]] = {}
        self.problems: list[str] = []
        self.dropped = 0

    def total(self, name: str) -> float:
        """What a page costs in all the processes of its browser."""
        return sum(self.pages[name].values())

    def grown(self, name: str, what: str = "heap") -> float:
        """What a page holds more at the end."""
        return growth([look[what] for look in self.held[name]])


def growth(values: list[float]) -> float:
    """From the lowest of the first third to the lowest of the last third: the tail of a leak lies above its beginning."""
    part = max(1, len(values) // 3)
    return min(values[-part:]) - min(values[:part])


def soak(warm: float, seconds: float, looks: int = 9) -> Soaked:
    """Five pages for ``seconds`` after ``warm`` seconds."""
    from playwright.sync_api import sync_playwright

    found = Soaked()
    with dashboard() as (home, url, server), fed(home), sync_playwright() as playwright:
        wait_until(lambda: _healthz(url)["ready"], 120)
        pages = [Watched(playwright, url, name, options) for name, options in SCREENS]
        pages[0].page.wait_for_timeout(warm * 1e3)
        worked = 0.0
        costs: dict[str, dict[str, float]] = {page.name: {} for page in pages}
        for look in range(looks + 1):
            # Collecting garbage on demand is no work of the page, so it is left out of the count.
            found.rss.append(server.memory_info().rss / 1e6)
            for page in pages:
                found.held.setdefault(page.name, []).append(page.held())
            if look == looks:
                break
            begin, before, spent = time.monotonic(), cpu(server), [page.spent() for page in pages]
            pages[0].page.wait_for_timeout(seconds / looks * 1e3)
            worked += cpu(server) - before
            for page, since in zip(pages, spent, strict=True):
                for kind, until in page.spent().items():
                    costs[page.name][kind] = costs[page.name].get(kind, 0.0) + until - since.get(kind, 0.0)
            found.seconds += time.monotonic() - begin
        found.server = 100 * worked / found.seconds
        found.pages = {name: {kind: 100 * value / found.seconds for kind, value in spent.items()} for name, spent in costs.items()}
        found.problems = [f"{page.name}: {problem}" for page in pages for problem in page.problems]
        found.dropped = _healthz(url)["dropped_streams"]
        for page in pages:
            page.browser.close()
    return found


def _healthz(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}healthz") as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def bench(quick: bool) -> Result:
    warm, seconds = 45.0 if quick else 90.0, float(os.environ.get("BENCH_SECONDS", SHORT if quick else LONG))
    found = soak(warm, seconds, looks=9 if quick else 30)
    rows: list[list[str | float | int]] = [["server", found.server, "", "", found.rss[0], found.rss[-1], growth(found.rss), ""]]
    for name, costs in found.pages.items():
        held = found.held[name]
        nodes = f"{held[0]['nodes']:,.0f} to {held[-1]['nodes']:,.0f}"
        whole = found.total(name)
        rows.append([name, costs["renderer"], costs.get("GPU", 0.0), whole, held[0]["heap"], held[-1]["heap"], found.grown(name), nodes])
    return Result(
        "Dashboard for a while",
        f"{RUNS} runs, {len(SCREENS)} pages, {RATE} events a second for {found.seconds:.0f} s. Half of the events belong to the run "
        "that all pages show. Each page has a browser of its own. Memory: of the server what is resident, of a page what its JavaScript "
        "holds after a collection of garbage; growth is from the lowest of the first third of the looks to the lowest of the last third. "
        "Painting takes the processor here, for there is no graphics card.",
        [
            Table(
                "percent of one core, and memory",
                ["", "itself", "painting", "whole browser", "MB at first", "MB at the end", "growth, MB", "nodes"],
                rows,
            )
        ],
        [
            Bar("server", found.server, SERVER_PERCENT, "% of one core"),
            Bar("the most expensive page, with all of its browser", max(map(found.total, found.pages)), PAGE_PERCENT, "% of one core"),
            Bar("growth of the server", growth(found.rss), SERVER_MB, "MB"),
            Bar("growth of a page's heap", max(map(found.grown, found.pages)), HEAP_MB, "MB"),
            Bar("errors in the pages' consoles", float(len(found.problems)), 0.0, ""),
            Bar("pages that were cut off", float(found.dropped), 0.0, ""),
        ],
        data={"held": found.held, "rss": found.rss, "pages": found.pages, "problems": found.problems},
    )
