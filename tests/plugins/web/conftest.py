import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.plugins.web.browsing import browser as browser
from tests.plugins.web.browsing import visit as visit
from trainbus.hookspecs import Panel
from trainbus.plugins.web.plugin import WebPlugin
from trainbus.testing.context import MemoryContext
from trainbus.testing.live import LiveHarness

WEB = Path(__file__).parents[3] / "web"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """No test touches the state of this machine."""
    monkeypatch.setenv("TRAINBUS_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def page():
    """The page as its sources are now; building it is a matter of a moment when it is up to date."""
    made = subprocess.run([sys.executable, str(WEB / "build.py")], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return WEB


@pytest.fixture
def until():
    """Wait for a condition with a deadline."""

    def wait(condition: Callable[[], object], seconds: float = 90.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition was not met in time"
            time.sleep(0.005)

    return wait


class Dashboard:
    """The real plugin on a port of its own, with a small HTTP client."""

    def __init__(self, context: MemoryContext, **config) -> None:
        self.plugin = WebPlugin()
        self.context = context
        self.harness = LiveHarness(self.plugin, config={"port": 0} | config, context=context)
        self.harness.start()
        self.url = context.url
        deadline = time.monotonic() + 120
        while not self.plugin.intake.loaded.is_set():
            assert time.monotonic() < deadline, "the history was not read in time"
            time.sleep(0.002)

    def declare(self, plugin: str, *panels: Panel) -> None:
        """As if the plugin were installed beside the dashboard."""
        self.plugin.intake.store.panels.declare(plugin, list(panels))

    def feed(self, *events) -> None:
        self.harness.feed(*events)

    def ask(self, path: str, *, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body; underscores in header names are dashes."""
        connection = self.open(path, method=method, **headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body

    def get(self, path: str) -> dict:
        status, _, body = self.ask(path)
        assert status == 200, body
        return json.loads(body)

    def post(self, path: str, value: object, **headers: str) -> tuple[int, dict]:
        """Status and answer of a request that changes something."""
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(self.url).port, timeout=90)
        sent = {"Content-Type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
        connection.request("POST", path, body=value if isinstance(value, bytes) else json.dumps(value).encode(), headers=sent)
        answer = connection.getresponse()
        body = json.loads(answer.read())
        connection.close()
        return answer.status, body

    def open(self, path: str, *, method: str = "GET", **headers: str) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(self.url).port, timeout=90)
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        return connection

    def close(self) -> None:
        self.harness.stop()


@pytest.fixture
def dashboard(tmp_path):
    """Makes running dashboards; one context for several is a restart with the same journal."""
    opened = []

    def make(*, context: MemoryContext | None = None, **config) -> Dashboard:
        opened.append(Dashboard(context or MemoryContext(name="web", directory=Path(tmp_path)), **config))
        return opened[-1]

    yield make
    for made in opened:
        made.close()
