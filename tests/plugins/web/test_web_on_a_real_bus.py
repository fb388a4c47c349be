"""The page, the plugin in its own process, a broker, a training: nothing simulated."""

import os
import signal
import socket
import time

import pytest

import trainbus
from tests.hosting.conftest import site as site
from tests.hosting.conftest import system as system
from tests.plugins.retention.support import make
from tests.plugins.web.browsing import needs_chromium, says, shows
from tests.support import wait_for
from trainbus.trainer_node.checkpoints import seal

pytestmark = [*needs_chromium, pytest.mark.slow]

SECONDS = 60_000
"""Milliseconds that the page has for what takes a restart of a process."""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def test_the_page_outlives_the_broker_and_the_server_without_a_reload_or_a_missing_point(system, visit):
    """Both are killed while the training goes on; then the journal is searched; a button reaches the training, and its answer the page."""
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
        page.select_option("#events-kind", "step")
        page.fill("#events-filter", "total_steps 60")
        page.wait_for_function("() => document.querySelectorAll('#events .event').length === 45")
        shows(page, "#events .end", "That is all.")
        page.click("[data-verb=save]")
        shows(page, "#orders li", "save")
        (command,) = wait_for(run.commands, 60.0)
        assert (command.verb, command.requested_by) == ("save", "plugin:web")
        run.result(command, "done", step=45)
        page.wait_for_selector("#orders li.done")
        deadline = time.monotonic() + 120
        while page.locator("#connection.live").count() != 1:
            assert time.monotonic() < deadline
            page.wait_for_timeout(50)


def test_a_checkpoint_is_restored_and_unpinned_from_the_page(system, visit, tmp_path):
    """Retention trashes it, the button brings it back with a pin, the next one gives it to the policies again; the run has ended."""
    port = free_port()
    settings = {"dry_run": False, "keep_newest": 1, "keep_best": [], "min_age": 0, "interval": 0.1}
    system.up("web", "retention", web={"port": port}, retention=settings)
    oldest = tmp_path / "out" / "checkpoint-1"
    with trainbus.init("train", run="train-1", root=system.root) as run:
        for step in (1, 2):
            run.step(step, loss=1.0 / step)
            path = make(oldest.parent, step, marker=False)
            run.checkpoint(path, step=step, digest=seal(path, run="train-1", name="train", step=step).digest)
    wait_for(lambda: not oldest.exists(), 60, what="the older one in the trash")
    page = visit(f"http://127.0.0.1:{port}/")
    page.set_default_timeout(SECONDS)
    shows(page, "#checkpoints .disk", str(system.root.anchor))
    page.click("[aria-label='Restore the checkpoint of step 1']")
    page.fill("dialog input[name=reason]", "for a look")
    page.click("dialog button[type=submit]")
    shows(page, "#checkpoints td", "for a look")
    assert oldest.exists()
    page.click("[aria-label='Unpin the checkpoint of step 1']")
    page.click("dialog button[type=submit]")
    page.wait_for_selector("[aria-label='Restore the checkpoint of step 1']")
    assert not oldest.exists()


def test_plugins_are_restarted_removed_and_added_from_the_page_and_a_file_reaches_the_inbox(system, visit, tmp_path):
    """Through the real supervisor, which changes the configuration file; the log is its own; the dashboard outlives its own restart."""
    port, inbox = free_port(), tmp_path / "inbox"
    inbox.mkdir()
    system.up("web", "anomaly", web={"port": port, "inbox": str(inbox)})
    before = system.wait_for_state("anomaly", "running").pid
    web = system.wait_for_state("web", "running").pid
    with trainbus.init("live", run="live", root=system.root) as run:
        run.step(1, loss=1.0)
        assert run.flush(20)
    page = visit(f"http://127.0.0.1:{port}/", may_lose_server=True)
    page.set_default_timeout(SECONDS)
    page.click("[aria-label='Restart anomaly']")
    page.click("dialog button[type=submit]")
    shows(page, "#plugin-told", "anomaly: restart, now running")
    assert system.plugin("anomaly").pid != before
    page.click("[aria-label='Remove anomaly']")
    page.click("dialog button[type=submit]")
    shows(page, "#plugin-told", "anomaly: remove, now stopped")
    assert "anomaly" not in system.plugins()
    assert '"anomaly"' not in system.config.read_text()
    page.select_option("#plugin-add", "anomaly")
    page.click("[data-plugin-verb=add]")
    page.click("dialog button[type=submit]")
    shows(page, "#plugin-told", "anomaly: add, now running")
    assert '"anomaly"' in system.config.read_text()
    page.click("[aria-label='Log of web']")
    shows(page, "#plugin-log pre", f"dashboard on http://127.0.0.1:{port}/")
    page.set_input_files("#queue-add", {"name": "new.jsonl", "mimeType": "application/json", "buffer": b"{}\n"})
    shows(page, "#uploads li.done", "new.jsonl")
    assert (inbox / "new.jsonl").read_text() == "{}\n"
    page.evaluate("window.sameDocument = true")
    page.click("[aria-label='Restart web']")
    page.click("dialog button[type=submit]")
    wait_for(lambda: system.plugin("web").pid not in (None, web), 60, what="another process")
    page.wait_for_selector("#connection.live")
    assert page.evaluate("window.sameDocument")
