"""``trainbus down``."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import click

from trainbus.bus.home import home, read_connection
from trainbus.bus.hosting.instance import read_running, supervisor_pid
from trainbus.cli.options import json_option
from trainbus.cli.output import print_json, stdout
from trainbus.errors import TrainbusError, UnreachableError

POLL = 0.05
"""Seconds between looks whether it is gone."""


@click.command(name="down")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait for the end.")
@json_option
def command(timeout: float, as_json: bool) -> None:
    """Stop the plugins, then the broker, and wait until they are gone. Publishers keep what they publish meanwhile in their spools."""
    root = home()
    stopped = stop(root, timeout)
    if as_json:
        print_json({"stopped": stopped})
    else:
        stdout().print("stopped " + ", ".join(f"{name} ({pid})" for name, pid in stopped.items()))


def stop(root: Path, timeout: float) -> dict[str, int]:
    """Stop what runs in ``root``; names and process ids of what was stopped.

    The signal goes to the supervisor itself and not through the broker: that one may be dead or frozen.

    Raises:
        UnreachableError: Nothing runs.
        TrainbusError: It is not gone after ``timeout`` seconds.
    """
    supervisor = supervisor_pid(root)
    stopped: dict[str, int] = {}
    if supervisor is not None:
        running = read_running(root)
        if running is not None:
            stopped = {plugin.name: plugin.pid for plugin in running.plugins if plugin.pid is not None}
            if running.broker is not None:
                stopped["broker"] = running.broker
        stopped["supervisor"] = supervisor
    elif (broker := _lone_broker(root)) is not None:
        stopped["broker"] = broker
    else:
        raise UnreachableError(f"Nothing runs in {root}.", hint="`trainbus up` starts it.")
    chief = supervisor or stopped["broker"]
    with contextlib.suppress(ProcessLookupError):
        os.kill(chief, signal.SIGTERM)
    deadline = time.monotonic() + timeout
    # Not the lock: it is free a moment before its process has ended; whoever asks for `down` may delete the home right after it.
    while _exists(chief):
        if time.monotonic() > deadline:
            hint = f"A plugin may be in a long hook. Try a longer --timeout, or end process {chief} by hand."
            raise TrainbusError(f"Not everything has stopped after {timeout:g} s.", hint=hint, pid=chief)
        time.sleep(POLL)
    return stopped


def _exists(pid: int) -> bool:
    """Whether the process lives; one that only waits to be reaped does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except (OSError, IndexError):
        return not Path("/proc/self").exists()  # without /proc the signal alone tells


def _lone_broker(root: Path) -> int | None:
    """A broker that runs without a supervisor."""
    try:
        pid = read_connection(root).pid
        os.kill(pid, 0)
        name = Path(f"/proc/{pid}/cmdline")
        # A process id is used again after a while: never signal what is no broker.
        return pid if not name.exists() or b"trainbus" in name.read_bytes() else None
    except (UnreachableError, ProcessLookupError, PermissionError):
        return None
