"""The dashboard with a run of a million steps: time to the first chart, zooming, extremes that must stay visible, the server's memory.

The real plugin in this process reads a history that is made as it is read; the page runs in headless Chromium.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import shutil
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlencode

import psutil

from benchmarks.common import METRICS, percentile, spread
from benchmarks.frame import Bar, Result, Table
from trainbus.bus.events import AnyEvent, RunStarted, Step
from trainbus.plugins.web.plugin import WebPlugin
from trainbus.testing.context import MemoryContext
from trainbus.testing.live import LiveHarness

FIRST_CHART_MS, ZOOM_MS = 1_000.0, 200.0
MEMORY_MB = 150.0
"""Twelve series of at most 200,000 points of 16 bytes are 38 MB, whatever the run's length."""
SECOND = 1_000_000_000
SPIKES = (0.137, 0.4021, 0.7777, 0.9931)
"""Where in the run one step's loss is one of `EXTREMES`."""
EXTREMES = (98_765.5, 97_765.5, 96_765.5, 95_765.5)
"""Found by their digits in whatever a page is given; every format that is used here says them exactly."""

DRAWN = "() => document.querySelector('#chart-loss canvas') && /at step/.test(document.querySelector('#chart-loss [role=img]').ariaLabel)"


class Endless(MemoryContext):
    """A context whose history is made while it is read."""

    steps = 0

    async def aquery(self, *, kinds: object = (), runs: object = (), after: int = -1, upto: int | None = None) -> AsyncIterator[AnyEvent]:
        for offset, event in self._history(after):
            if upto is not None and offset > upto:
                return
            event.offset = offset
            yield event

    def _history(self, after: int) -> Iterator[tuple[int, AnyEvent]]:
        begin = time.time_ns() - self.steps * SECOND // 100
        if after < 0:
            yield 0, RunStarted(run="long", time=begin)
        spikes = planted(self.steps)
        for step in range(max(0, after) + 1, self.steps + 1):
            wave = 0.3 * math.sin(step * 0.37)
            metrics = {name: value + wave for name, value in METRICS.items()}
            metrics["loss"] = spikes[step] if step in spikes else 0.5 + 2 * math.exp(-step / self.steps * 5) + 0.1 * wave
            yield step, Step(run="long", step=step, total_steps=self.steps, metrics=metrics, time=begin + step * SECOND // 100)


def planted(steps: int) -> dict[int, float]:
    """The extremes by their steps."""
    return {int(steps * place): value for place, value in zip(SPIKES, EXTREMES, strict=True)}


@contextlib.contextmanager
def served(steps: int) -> Iterator[tuple[WebPlugin, str, float]]:
    """The plugin with its address, and seconds until it had read the history."""
    context = Endless(name="web")
    context.steps = steps
    plugin, begin = WebPlugin(), time.perf_counter()
    with LiveHarness(plugin, config={"port": 0}, context=context) as harness:
        asyncio.run_coroutine_threadsafe(plugin.intake.loaded.wait(), harness._loop).result(580)
        yield plugin, context.url, time.perf_counter() - begin


def series(url: str, **query: object) -> dict:
    with urllib.request.urlopen(f"{url}api/runs/long/series?{urlencode({'metric': 'loss', **query})}") as answer:
        return json.load(answer)["series"][0]


def missed(url: str, steps: int) -> int:
    """Windows, from the whole run to a ten-thousandth, in which a planted extreme is not among the points of a phone's width."""
    lost = 0
    for at, value in planted(steps).items():
        for part in (1, 10, 100, 1_000, 10_000):
            reach = max(2, steps // part // 2)
            answer = series(url, points=300, **{"from": at - reach, "to": at + reach})
            lost += value not in answer["values"]
    return lost


def in_browser(url: str, rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds from navigation to the drawn loss, and from the end of a drag to the zoomed one."""
    from playwright.sync_api import sync_playwright

    first, zoom = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(rounds):
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto("about:blank")
            begin = time.perf_counter()
            page.goto(url, wait_until="commit")
            page.wait_for_function(DRAWN)
            first.append((time.perf_counter() - begin) * 1e3)
            box = page.locator("#chart-loss canvas").first.bounding_box()
            label = page.get_attribute("#chart-loss [role=img]", "aria-label")
            page.mouse.move(box["x"] + 200, box["y"] + 100)
            page.mouse.down()
            page.mouse.move(box["x"] + 400, box["y"] + 100, steps=3)
            begin = time.perf_counter()
            page.mouse.up()
            page.wait_for_function("(b) => document.querySelector('#chart-loss [role=img]').ariaLabel !== b", arg=label)
            zoom.append((time.perf_counter() - begin) * 1e3)
            page.close()
        browser.close()
    return first, zoom


def bench(quick: bool) -> Result:
    steps, rounds = (100_000, 3) if quick else (1_000_000, 7)
    before = psutil.Process().memory_info().rss
    with served(steps) as (plugin, url, seconds):
        grown = (psutil.Process().memory_info().rss - before) / 1e6
        points = plugin.intake.store.stats().points
        lost = missed(url, steps)
        begin = time.perf_counter()
        for index in range(50):
            series(url, points=1000, **{"from": index * steps // 100, "to": steps - index})
        answer = (time.perf_counter() - begin) / 50 * 1e3
        first, zoom = in_browser(url, rounds)
    rows: list[list[str | float | int]] = [
        ["first chart after navigation, ms", percentile(first, 0.5), spread(first, 0)],
        ["zoom, ms", percentile(zoom, 0.5), spread(zoom, 0)],
        ["one window of 1,000 points from the server, ms", answer, ""],
        ["reading the history, s", seconds, ""],
        ["points held", points, ""],
        ["memory that reading it took, MB", grown, ""],
        ["windows that lost an extreme, of 20", lost, ""],
    ]
    return Result(
        "Dashboard",
        f"A run of {steps:,} steps with ten metrics, a spike of one step at four places; {rounds} visits in headless Chromium, "
        "the median counts.",
        [Table("a long run", ["", "median", "over the rounds"], rows)],
        [
            Bar("first chart after navigation", percentile(first, 0.5), FIRST_CHART_MS, "ms"),
            Bar("zoom", percentile(zoom, 0.5), ZOOM_MS, "ms"),
            Bar("windows that lost an extreme", float(lost), 0.0, ""),
            Bar("memory that reading the run took", grown, MEMORY_MB, "MB"),
        ],
        data={"first": first, "zoom": zoom},
    )
