"""The page, the plugin in its own process, a broker, a training: nothing simulated."""

import os
import signal
import socket
import time

import pytest

import trainbus
from tests.hosting.conftest import site as site
from tests.hosting.conftest import system as system
from tests.plugins.web.browsing import needs_chromium, says, shows
from tests.support import wait_for

pytestmark = [*needs_chromium, pytest.mark.slow]

SECONDS = 60_000
"""Milliseconds that the page has for what takes a restart of a process."""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def test_the_page_outlives_the_broker_and_the_server_without_a_reload_or_a_missing_point(system, visit):
    """Both are killed while the training goes on; then a button of the page reaches the training, and its answer the page."""
    port = free_port()
    system.up("web", web={"port": port})
    web = system.wait_for_state("web", "running")
    with trainbus.init("live", run="live", root=system.root) as run:
        for step in range(1, 21):
            run.step(step, total_steps=60, loss=1.0 / step)
        assert run.flush(20)
        page = visit(f"http://127.0.0.1:{port}/", may_lose_server=True)
        page.set_default_timeout(SECONDS)
        says(page, "#chart-loss", "at step 20")
        page.evaluate("window.sameDocument = true")
        os.kill(system.broker_pid(), signal.SIGKILL)
        os.kill(web.pid, signal.SIGKILL)
        for step in range(21, 41):
            run.step(step, total_steps=60, loss=1.0 / step)
        says(page, "#chart-loss", "at step 40")
        for step in range(41, 46):
            run.step(step, total_steps=60, loss=1.0 / step)
        says(page, "#chart-loss", "at step 45")
        shown = page.evaluate("fetch('/api/runs/live/series?metric=loss').then((a) => a.json()).then((a) => a.series[0].steps)")
        assert shown == list(range(1, 46))
        assert page.evaluate("window.sameDocument")
        page.click("[data-verb=save]")
        shows(page, "#orders li", "save")
        (command,) = wait_for(run.commands, 60.0)
        assert (command.verb, command.requested_by) == ("save", "plugin:web")
        run.result(command, "done", step=45)
        page.wait_for_selector("#orders li.done")
        deadline = time.monotonic() + 60
        while page.locator("#connection.live").count() != 1:
            assert time.monotonic() < deadline
            page.wait_for_timeout(50)
