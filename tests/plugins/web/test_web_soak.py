"""The dashboard for a while as people leave it: many runs, several pages, a hundred events a second."""

import contextlib
import http.client
import re
import threading
import time
from urllib.parse import urlsplit

import psutil
import pytest

from benchmarks.dashboard_soak import PAGE_PERCENT, SCREENS, SERVER_PERCENT, growth, soak
from tests.plugins.web.browsing import needs_chromium
from trainbus.bus.events import RunStarted, Sample, Step

pytestmark = pytest.mark.slow

RUNS, PAGES, RATE = 50, 5, 100
WARM, LONG = 20, 60
"""Seconds: until every run has all its series, and how long memory is then watched."""

GROWTH_BYTES = 12 * 1024**2
"""More than what the events of `LONG` seconds take as points: 6,000 steps of twelve series of 16 bytes are 1.2 MB."""

PAGE_GROWTH_MB = 4.0
"""A page's heap between two collections of garbage moves by less; a page that kept 1 kB of each event would grow by 12 MB."""

METRICS = {f"metric_{number}": float(number) for number in range(10)}


class Page:
    """What an open page costs the server: a stream that is read to its end, and the state each second."""

    def __init__(self, url):
        self.netloc = urlsplit(url).netloc
        self.last = -1
        self.counted = 0
        self.problem = ""
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._listen, self._ask)]
        for thread in self.threads:
            thread.start()

    def _listen(self):
        connection = http.client.HTTPConnection(self.netloc, timeout=60)
        connection.request("GET", "/api/events?after=-1")
        answer = connection.getresponse()
        with contextlib.suppress(OSError, http.client.HTTPException):
            while not self.stopping.is_set() and (line := answer.readline()):
                if match := re.match(rb"id: (\d+)", line):
                    if int(match[1]) != self.last + 1:
                        self.problem = f"{match[1]} after {self.last}"
                    self.last, self.counted = int(match[1]), self.counted + 1
        connection.close()

    def _ask(self):
        while not self.stopping.wait(1.0):
            for path in ("/api/state?lists=no&run=run-0", "/api/runs/run-0/series?metric=metric_0&metric=metric_1&points=1000"):
                connection = http.client.HTTPConnection(self.netloc, timeout=60)
                connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
                if connection.getresponse().read()[:1] == b"":
                    self.problem = f"{path} was empty"
                connection.close()

    def close(self):
        self.stopping.set()


def test_many_runs_and_pages_for_a_while_cost_no_memory_and_no_event(dashboard, until):
    """Each page gets every event once, in order; nobody is cut off; memory stays where it was after the warm-up."""
    board = dashboard(samples=20, points_per_series=1_000)
    board.feed(*(RunStarted(run=f"run-{number}", time=time.time_ns()) for number in range(RUNS)))
    pages = [Page(board.url) for _ in range(PAGES)]
    process, number, begin, used = psutil.Process(), 0, time.monotonic(), 0
    try:
        while (now := time.monotonic() - begin) < WARM + LONG:
            # However loaded the machine is, as many events are fed as the time asks for.
            while number < now * RATE:
                run = f"run-{number % RUNS}"
                board.feed(Step(run=run, step=number, total_steps=10**6, time=time.time_ns(), metrics=METRICS))
                if number % 50 == 0:
                    board.feed(Sample(run=run, step=number, prompt="p" * 500, answer="a" * 500, time=time.time_ns()))
                number += 1
            # The journal is kept by a broker, not by the dashboard.
            del board.context.history[: -20 * RATE]
            if not used and now > WARM:
                used = process.memory_info().rss
            time.sleep(0.01)
        newest = board.context.history[-1].offset
        until(lambda: all(page.last == newest for page in pages), 120)
        assert process.memory_info().rss - used < GROWTH_BYTES
        assert [(page.counted, page.problem) for page in pages] == [(newest + 1, "")] * PAGES
        assert board.get("/healthz")["dropped_streams"] == 0
    finally:
        for page in pages:
            page.close()


@pytest.mark.timeout(1_800)  # a loaded machine takes its time to start five browsers
@pytest.mark.browser
@needs_chromium[1]
def test_five_real_pages_for_a_while_are_cheap_and_do_not_grow(page):
    """50 runs, a real bus, 100 events a second: the server below 20 % of a core, each page with its whole browser below 30 %, by the
    processor time of their own processes. Nothing is cut off, no page has an error, none holds more and more."""
    found = soak(warm=30, seconds=120, looks=9)
    assert found.problems == []
    assert found.dropped == 0
    assert found.server < SERVER_PERCENT
    assert {name: found.total(name) for name in found.pages if found.total(name) >= PAGE_PERCENT} == {}
    assert len(found.pages) == len(SCREENS)
    assert {name: found.grown(name) for name in found.pages if found.grown(name) > PAGE_GROWTH_MB} == {}
    assert growth(found.rss) * 1e6 < GROWTH_BYTES
