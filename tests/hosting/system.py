"""A whole running system for a test: `trainbus up` as a process of its own, a publisher, and what plugins leave behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import tomlkit

from tests.support import wait_for
from trainbus.bus import wire
from trainbus.bus.client import Client
from trainbus.bus.events import Step
from trainbus.bus.home import read_connection
from trainbus.bus.hosting.instance import read_running
from trainbus.bus.publisher import Publisher
from trainbus.errors import TrainbusError

RECORDER = """
class P:
    '''Writes down the steps that it saw, and counts them in its state.'''
    @hookimpl
    def start(self, context):
        self.file = os.open(context.directory / "seen", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        print("recorder starts", flush=True)

    @hookimpl
    def on_step(self, event, context):
        os.write(self.file, b"%d\\n" % event.step)
        context.state["count"] = context.state.get("count", 0) + 1

    @hookimpl
    def stop(self, context):
        os.write(self.file, b"stop\\n")
"""


class System:
    """Started with `up`; whatever is left of it is killed by `close`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root.parent / "trainbus.toml"
        self.process: subprocess.Popen[str] | None = None
        self.publisher: Publisher | None = None
        self._published = 0
        self._pids: set[int] = set()

    def configure(self, *plugins: str, bus: dict | None = None, **options: dict) -> None:
        """Write the configuration file."""
        bus = {"stop_timeout": 3.0, **(bus or {})}
        self.config.write_text(tomlkit.dumps({"plugins": list(plugins), "bus": bus, "plugin": options}))

    def up(self, *plugins: str, bus: dict | None = None, **options: dict) -> None:
        """Start it in the foreground of a process of its own and wait for the broker."""
        self.configure(*plugins, bus=bus, **options)
        command = [sys.executable, "-m", "trainbus", "up", "--config", str(self.config)]
        self.output = (self.root.parent / "up.out").open("w+")
        self.process = subprocess.Popen(command, stdout=self.output, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        wait_for(self._is_up, what="trainbus up")

    def _is_up(self) -> bool:
        if self.process.poll() is not None:
            self.output.seek(0)
            raise AssertionError(f"trainbus up ended with {self.process.returncode}:\n{self.output.read()}")
        running = read_running(self.root)
        return running is not None and running.state == "running" and self.supervisor_answers()

    def supervisor_answers(self) -> bool:
        """Whether the supervisor is reached through the broker."""
        with contextlib.suppress(TrainbusError):
            self.plugins()
            return True
        return False

    def plugins(self) -> dict[str, wire.PluginStatus]:
        """What the supervisor says of its plugins."""
        found = msgspec.convert(self.supervise("plugins"), list[wire.PluginStatus])
        self._pids |= {plugin.pid for plugin in found if plugin.pid}
        return {plugin.name: plugin for plugin in found}

    def supervise(self, verb: str, name: str = "", **arguments: object) -> object:
        """Ask the supervisor."""
        with Client(root=self.root) as client:
            return client.supervise(verb, name, **arguments)

    def plugin(self, name: str) -> wire.PluginStatus:
        """One plugin; while the supervisor can't be asked, its account of it."""
        try:
            return self.plugins()[name]
        except TrainbusError:
            running = read_running(self.root)
            return next(plugin for plugin in running.plugins if plugin.name == name)

    def wait_for_state(self, name: str, state: str, *, not_pid: int | None = None) -> wire.PluginStatus:
        """Wait until a plugin is in ``state``; with ``not_pid``, in another process than that."""

        def reached() -> wire.PluginStatus | None:
            status = self.plugin(name)
            return status if status.state == state and (not_pid is None or status.pid not in (None, not_pid)) else None

        return wait_for(reached, what=f"{name} {state}")

    def publish(self, count: int) -> None:
        """Publish the next ``count`` steps."""
        if self.publisher is None:
            self.publisher = Publisher("r", name="test", root=self.root)
        for _ in range(count):
            self.publisher.publish(Step(step=self._published, metrics={"loss": 1.0}))
            self._published += 1
        assert self.publisher.flush(20.0)

    def seen(self, name: str) -> list[int]:
        """The steps that a recorder wrote down."""
        file = self.root / "plugins" / name / "seen"
        whole = file.read_text().rpartition("\n")[0] if file.exists() else ""  # the last line may be being written
        return [int(line) for line in whole.splitlines() if line.isdigit()]

    def state(self, name: str) -> dict[str, object]:
        """A plugin's durable state."""
        with Client(root=self.root) as client:
            return {key: msgspec.msgpack.decode(value) for key, value in client.open_cursor(f"plugin:{name}").state.items()}

    def events(self, *kinds: str) -> list:
        """What the journal holds of these kinds."""
        with Client(root=self.root) as client:
            return list(client.events(kinds=kinds))

    def broker_pid(self) -> int:
        """The broker's process id."""
        pid = read_connection(self.root).pid
        self._pids.add(pid)
        return pid

    def pids(self) -> set[int]:
        """All processes of the system that are known, the supervisor's excepted."""
        running = read_running(self.root)
        if running is not None:
            self._pids |= {plugin.pid for plugin in running.plugins if plugin.pid} | ({running.broker} if running.broker else set())
        return set(self._pids)

    def log(self, name: str) -> str:
        """The kept output of a child."""
        return (self.root / "logs" / f"{name}.log").read_text()

    def down(self) -> int:
        """Ctrl-C, and wait; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(180)

    def close(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(Exception):
            self.pids()
        if self.publisher is not None:
            self.publisher.close(1.0)
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(180)
            self.process.kill()
            self.process.wait()
        for pid in self._pids:
            with contextlib.suppress(OSError):
                if b"trainbus" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
