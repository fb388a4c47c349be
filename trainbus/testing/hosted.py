"""A real bus for one test: a broker of its own, and plugins in processes of their own, as `trainbus up` runs them.

    with LocalBus(tmp_path / "home") as bus, bus.host("patience", config={"limit": 3.0}) as host:
        host.wait_until_running()
        with trainbus.init("r", run="r", root=bus.root) as run:
            run.step(1, loss=7.0)
        host.wait_for(lambda: bus.events("alert"))

For what memory can't show: the handshake, real time, `HostedPlugin.kill` (SIGKILL, as a crash) and what comes again after it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from trainbus.bus.broker.loop import run_broker
from trainbus.bus.client import Client
from trainbus.bus.config import BusConfig
from trainbus.bus.credentials import VARIABLE
from trainbus.bus.home import private_directory
from trainbus.bus.hosting import report
from trainbus.bus.hosting.process import OPTIONS_VARIABLE
from trainbus.errors import PluginError

START_SECONDS = 60.0
"""A plugin that isn't running after this long has failed: a loaded machine may take several seconds to import one."""
STOP_SECONDS = 10.0
"""`stop_timeout` of hosted plugins, and beside it the patience with a broker that ends."""
LOOK_INTERVAL = 0.02

T = TypeVar("T")


class LocalBus:
    """A broker on the loopback address with a journal of its own. A context manager.

    While it runs, a token in the environment (``TRAINBUS_TOKEN``) is put aside: it would lead everybody to the bus of another machine.

    Args:
        root: The state directory, to be made; what ``TRAINBUS_HOME`` names elsewhere.
        settings: The section ``[bus]``.
    """

    def __init__(self, root: Path, *, settings: BusConfig | None = None) -> None:
        self.root = root
        self.settings = settings or BusConfig(heartbeat_interval=0.1, stop_timeout=STOP_SECONDS)
        self._hosts: list[HostedPlugin] = []
        self._token: str | None = None
        self._ready, self._stop = threading.Event(), threading.Event()
        self._failed: list[Exception] = []
        self._thread = threading.Thread(target=self._serve, name="trainbus-broker", daemon=True)

    def __enter__(self) -> LocalBus:
        private_directory(self.root)
        self._token = os.environ.pop(VARIABLE, None)
        self._thread.start()
        while not self._ready.wait(LOOK_INTERVAL):
            if self._failed:
                self.close()
                raise self._failed[0]
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the plugins that still run, then the broker."""
        for host in self._hosts:
            host.stop()
        self._stop.set()
        self._thread.join(START_SECONDS)
        if self._token is not None:
            os.environ[VARIABLE] = self._token

    def host(self, plugin: str, *, config: Mapping[str, Any] | None = None, target: str = "") -> HostedPlugin:
        """Start an installed plugin by name; with ``target`` (``module:object``), one in development under this name."""
        host = HostedPlugin(plugin, self.root, dict(config or {}), self.settings, target)
        self._hosts.append(host)
        return host

    def events(self, *kinds: str, run: str = "") -> list[Any]:
        """What the journal holds of these kinds, of one run or of all."""
        with Client(root=self.root) as client:
            return list(client.events(kinds=kinds, runs=(run,) if run else ()))

    def head(self) -> int:
        """The offset of the newest event."""
        with Client(root=self.root) as client:
            return client.status().head

    def _serve(self) -> None:
        try:
            run_broker(self.settings, self.root, ready=lambda _: self._ready.set(), stop=self._stop)
        except Exception as error:  # noqa: BLE001 - raised where the bus is used
            self._failed.append(error)


class HostedPlugin:
    """A plugin in a process of its own. Made by `LocalBus.host`; a context manager that stops it.

    Attributes:
        hello: The handshake of a plugin that was loaded.
        refusal: Why it was not, if it was not.
        progress: What its host said last.
    """

    def __init__(self, plugin: str, root: Path, config: dict[str, Any], settings: BusConfig, target: str) -> None:
        self.hello: report.Hello | None = None
        self.refusal: report.Refusal | None = None
        self.progress = report.Progress(state="starting")
        self._log = private_directory(root / "logs") / f"{plugin}.log"
        life_read, self._lifeline = os.pipe()
        report_read, report_write = os.pipe()
        command = [
            sys.executable, "-m", "trainbus.bus.hosting.host", plugin, "--root", str(root),
            "--settings", msgspec.json.encode(settings).decode(),
            "--lifeline", str(life_read), "--report", str(report_write),
        ]  # fmt: skip
        if target:
            command += ["--target", target]
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[life_read, report_write],
                start_new_session=True,
                env={**os.environ, OPTIONS_VARIABLE: msgspec.json.encode(config).decode()},
            )
        os.close(life_read)
        os.close(report_write)
        self._reader = threading.Thread(target=self._read, args=(os.fdopen(report_read, "rb"),), daemon=True)
        self._reader.start()

    def __enter__(self) -> HostedPlugin:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_for(self, condition: Callable[[], T], seconds: float = START_SECONDS) -> T:
        """Ask until the condition is true, and return what it gave.

        Raises:
            PluginError: The process ended, or time is up.
        """
        end = time.monotonic() + seconds
        while not (value := condition()):
            code = self.process.poll()
            if code is not None:
                self._reader.join(STOP_SECONDS)
                if value := condition():
                    break
                problem = self.refusal.error if self.refusal else self.progress.error or f"The plugin's process ended with {code}."
                raise PluginError(problem, hint=self.refusal.hint if self.refusal else self.output()[-2000:])
            if time.monotonic() > end:
                raise PluginError(f"The plugin did not get there within {seconds:.0f} s.", hint=self.output()[-2000:])
            time.sleep(LOOK_INTERVAL)
        return value

    def wait_until_running(self, seconds: float = START_SECONDS) -> None:
        """Wait for the handshake and for `start` to return.

        Raises:
            PluginError: It was refused, or `start` raised, or took too long.
        """
        self.wait_for(lambda: self.progress.state == "running", seconds)

    def wait_for_offset(self, offset: int, seconds: float = START_SECONDS) -> None:
        """Wait until the hooks have returned for the event at this offset.

        Raises:
            PluginError: The process ended, or time is up.
        """
        self.wait_for(lambda: self.progress.offset >= offset, seconds)

    def kill(self) -> None:
        """End it as a crash does (SIGKILL), and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self._end()

    def stop(self) -> int:
        """End it in order, by force when it takes too long; the exit code, or minus the signal."""
        self._close_lifeline()
        try:
            self.process.wait(2 * STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._end()
        return self.process.returncode

    def output(self) -> str:
        """What it and its host have printed."""
        return self._log.read_text(errors="replace")

    def _end(self) -> None:
        self.process.wait()
        self._close_lifeline()
        self._reader.join(STOP_SECONDS)

    def _close_lifeline(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def _read(self, pipe: IO[bytes]) -> None:
        with pipe:
            for line in pipe:
                said = report.decode(line)
                if isinstance(said, report.Hello):
                    self.hello = said
                elif isinstance(said, report.Refusal):
                    self.refusal = said
                else:
                    self.progress = said
