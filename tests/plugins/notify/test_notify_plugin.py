"""The plugin with real receivers: a program on PATH, an HTTP server, the apprise library."""

import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from trainbus.bus.events import Alert, RunEnded
from trainbus.errors import ConfigError
from trainbus.plugins.notify.plugin import NotifyPlugin
from trainbus.testing.context import MemoryContext, PluginHarness


def started(*channels, context=None, **settings):
    harness = PluginHarness(NotifyPlugin(), config={"channels": list(channels), **settings}, context=context)
    harness.start()
    return harness


def alert(severity="critical", rule="divergence", number=1):
    return Alert(run="r", id=f"{rule}:{number}", rule=rule, severity=severity, step=7, message="Up and up.", time=time.time_ns())


def stats(harness):
    return next(iter(harness.manager.get_plugins())).stats()


def test_the_desktop_hears_of_a_divergence_with_urgency_critical(tmp_path, monkeypatch):
    """By notify-send."""
    program = tmp_path / "notify-send"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/heard\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    harness = started({"name": "desk", "type": "desktop"})
    harness.feed(alert())
    assert harness.every() == 1.0
    heard = (tmp_path / "heard").read_text().splitlines()
    assert heard[heard.index("--urgency") + 1] == "critical"
    assert heard[-2:] == ["critical: divergence in r at step 7", "Up and up."]


@pytest.fixture
def hook():
    """An HTTP server on loopback: what it heard, and the answers that it gives first."""
    heard, answers = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            heard.append((self.headers.get("Authorization"), body))
            self.send_response(answers.pop(0) if answers else 204)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/secret", heard, answers
    server.shutdown()
    thread.join(90)
    server.server_close()


def test_a_webhook_gets_json_and_its_url_is_read_from_a_private_file(hook, tmp_path, monkeypatch):
    """With the token of the environment."""
    url, heard, _ = hook
    secret = tmp_path / "url"
    secret.write_text(url + "\n")
    secret.chmod(0o600)
    monkeypatch.setenv("HOOK_TOKEN", "t0k3n")
    harness = started({"name": "hook", "type": "webhook", "url_file": str(secret), "token_env": "HOOK_TOKEN"})
    harness.feed(RunEnded(run="r", outcome="failed", step=9, reason="CUDA out of memory", time=time.time_ns()))
    harness.every()
    ((authorization, body),) = heard
    assert authorization == "Bearer t0k3n"
    assert (body["title"], body["severity"], body["text"]) == ("run r failed at step 9", "critical", "CUDA out of memory")


def test_a_service_that_is_down_is_tried_again_and_the_log_holds_no_url(hook, monkeypatch, caplog):
    """Also after a restart in between."""
    url, heard, answers = hook
    answers[:] = [503]
    monkeypatch.setenv("HOOK_URL", url)
    channel, context = {"name": "hook", "type": "webhook", "url_env": "HOOK_URL"}, MemoryContext()
    first = started(channel, context=context)
    first.feed(alert())
    assert first.every() == 30.0
    again = started(channel, context=context)
    again.every()
    assert [body["rule"] for _, body in heard] == ["divergence", "divergence"]
    assert stats(again).delivered == 1
    assert "503" in caplog.text
    assert "secret" not in caplog.text
    again.feed(alert())
    assert again.every() == 1.0
    assert len(heard) == 2


def test_a_message_that_never_gets_through_is_dropped_after_five_tries(monkeypatch):
    """And counted."""
    monkeypatch.setenv("HOOK_URL", "http://127.0.0.1:1/")
    harness = started({"name": "hook", "type": "webhook", "url_env": "HOOK_URL", "timeout": 1.0})
    harness.feed(alert())
    for _ in range(5):
        harness.every()
    assert (stats(harness).dropped, stats(harness).waiting) == (1, 0)


@pytest.mark.parametrize(
    ("channel", "said"),
    [
        ({"type": "webhook"}, "has no URL"),
        ({"type": "webhook", "url_env": "NOT_SET"}, "NOT_SET is not set"),
        ({"type": "apprise", "url_file": "missing"}, "can't be read"),
    ],
)
def test_a_channel_that_can_never_work_is_refused_at_the_start(channel, said, tmp_path, monkeypatch):
    """In a sentence that names it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said) as caught:
        started({"name": "hook", **channel})
    assert "hook" in caught.value.problem


def test_a_secret_that_others_can_read_is_refused(tmp_path):
    """With the command that mends it."""
    secret = tmp_path / "url"
    secret.write_text("http://127.0.0.1:1/")
    secret.chmod(0o644)
    with pytest.raises(ConfigError) as caught:
        started({"name": "hook", "type": "webhook", "url_file": str(secret)})
    assert "0644" in caught.value.problem
    assert caught.value.hint == f"chmod 600 {secret}"


def test_a_route_to_a_channel_that_there_is_not_is_refused():
    """With the names that there are."""
    with pytest.raises(ConfigError, match="phone") as caught:
        started({"name": "desk", "type": "desktop"}, routes=[{"channels": ["phone"]}])
    assert "desk" in caught.value.hint


def test_every_service_of_apprise_can_be_a_channel(hook, monkeypatch):
    """Its own JSON service stands for all."""
    pytest.importorskip("apprise", reason="apprise is not installed: the extra `notify` brings it")
    url, heard, _ = hook
    monkeypatch.setenv("APPRISE_URL", url.replace("http://", "json://"))
    harness = started({"name": "all", "type": "apprise", "url_env": "APPRISE_URL"})
    harness.feed(alert("warning", "loss_spike"))
    harness.every()
    ((_, body),) = heard
    assert (body["title"], body["type"]) == ("warning: loss_spike in r at step 7", "warning")


def test_without_apprise_its_channels_say_which_extra_is_missing(monkeypatch, caplog):
    """Nothing else is hurt."""
    monkeypatch.setitem(__import__("sys").modules, "apprise", None)
    monkeypatch.setenv("APPRISE_URL", "json://127.0.0.1:1")
    harness = started({"name": "all", "type": "apprise", "url_env": "APPRISE_URL"})
    harness.feed(alert())
    harness.every()
    assert "need the module apprise" in caplog.text
