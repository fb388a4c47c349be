"""``trainbus up``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import click
import msgspec
from rich.console import Console
from rich.text import Text

from trainbus.bus.broker.keystore import read_book
from trainbus.bus.broker.sockets import check_bind
from trainbus.bus.config import Config
from trainbus.bus.config_file import find, load
from trainbus.bus.credentials import VARIABLE
from trainbus.bus.home import home, private_directory, read_connection
from trainbus.bus.hosting import registry
from trainbus.bus.hosting.instance import Running, read_running, refuse_a_second
from trainbus.bus.hosting.supervisor import Source, run_supervisor
from trainbus.cli.options import config_options, json_option
from trainbus.cli.output import note, print_json, size, stderr, stdout
from trainbus.cli.status_table import plugin_table
from trainbus.errors import ConfigError, JournalError, PluginError, RefusedError, TrainbusError, UnreachableError

KIND_OF_CODE = {kind.exit_code: kind for kind in (ConfigError, RefusedError, JournalError, PluginError)}
"""The background process ended with one of these: so does this one."""

ROOM_BYTES = 4 * 1024 * 1024
"""With less room neither a journal nor the log of why there is none can be counted on."""

POLL = 0.05
"""Seconds between looks at a supervisor that starts."""


@click.command(name="up")
@config_options
@click.option("--plugins", metavar="A,B", help="Run these plugins instead of those that the configuration lists. '' for none.")
@click.option("--bind", metavar="ADDRESS", help="Listen on this address of the machine, as bus.bind does. Needs keys: see `trainbus keys`.")
@click.option("--detach", "-d", is_flag=True, help="Go on in the background; returns when broker and plugins are up.")
@click.option("--quiet", "-q", is_flag=True, help="Don't show the output of broker and plugins; `trainbus logs` does.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds that --detach waits.")
@json_option
def command(
    config_path: Path | None,
    overrides: tuple[str, ...],
    plugins: str | None,
    bind: str | None,
    detach: bool,
    quiet: bool,
    timeout: float,
    as_json: bool,
) -> int | None:
    """Start the broker and the enabled plugins.

    In the foreground their output is shown with a prefix, and Ctrl-C stops everything in order. It is also kept: see `trainbus logs`.
    """
    root = home()
    if os.environ.pop(VARIABLE, None):
        note(f"{VARIABLE} is not heeded here: `trainbus up` starts this machine's own bus.")
    file = find(config_path)
    if bind is not None:
        overrides = (*overrides, f'bus.bind="{bind}"')
    chosen = None if plugins is None else [name.strip() for name in plugins.split(",") if name.strip()]

    def read() -> Config:
        config = load(file, overrides=overrides).config
        return config if chosen is None else msgspec.structs.replace(config, plugins=chosen)

    config = read()  # mistakes are told here, before anything starts
    refuse_a_second(root)
    check_bind(config.bus.bind, keyed=read_book(root) is not None)
    for name in config.plugins:
        registry.find(name)
    # With --plugins the list in the file is not what runs, so `plugins add` must not edit it.
    source = Source(load=read, file=file.absolute() if file is not None and chosen is None else None)
    if detach:
        return _detach(root, timeout, as_json)
    console = stdout() if not as_json else stderr()
    _banner(console, root, config, file)
    run_supervisor(config, root, source=source, console=None if quiet else console)
    return None


def _banner(console: Console, root: Path, config: Config, file: Path | None) -> None:
    names = ", ".join(config.plugins) or "none"
    console.print(Text.assemble(("trainbus", "bold"), f"  home {root}  configuration {file or 'defaults'}"), soft_wrap=True)
    console.print(
        Text(f"plugins: {names}. `trainbus status` tells addresses and states; Ctrl-C stops everything.", style="dim"), soft_wrap=True
    )


def _detach(root: Path, timeout: float, as_json: bool) -> int:
    """Start this same command in a session of its own and wait until all is up.

    A new process and not a double fork: nothing of this one (threads, sockets, the terminal) is left in it.
    """
    # Quiet: its output is a file, which nobody rotates; what the children print is in their own logs.
    arguments = [*(argument for argument in sys.argv[1:] if argument not in ("--detach", "-d")), "--quiet"]
    log = private_directory(root / "logs") / "up.log"
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as output:
        process = _start(arguments, output)
        running = _wait(root, process, timeout)
    if running is None:
        words = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if process.poll() is not None:
            problem, hint = _error_in(words)
            if not problem and (free := shutil.disk_usage(root).free) < ROOM_BYTES:  # the log, of all things, could not be written
                hint = f"Free some space, or put TRAINBUS_HOME on another disk; nothing runs in {root}."
                raise JournalError(f"The disk of {root} is full: {size(free)} are free, a journal needs more.", hint=hint)
            kind = KIND_OF_CODE.get(process.returncode, TrainbusError)
            without = f"`trainbus up` without --detach shows why; so may {log}."
            raise kind(problem or f"trainbus up ended with exit code {process.returncode}.", hint=hint or without)
        raise UnreachableError(f"Not everything is up after {timeout:g} s.", hint=f"See `trainbus status` and {log}.")
    failed = [plugin for plugin in running.plugins if plugin.state == "failed"]
    connection = read_connection(root)
    if as_json:
        print_json({"supervisor": running.pid, "broker": connection, "plugins": running.plugins})
    else:
        console = stdout()
        console.print(f"broker {connection.pid} at {connection.router} and {connection.xpub}, supervisor {running.pid}")
        if running.plugins:
            console.print(plugin_table(running.plugins))
        note("`trainbus down` stops everything.")
    return 1 if failed else 0


def _start(arguments: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "trainbus", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, "NO_COLOR": "1"},
    )


def _wait(root: Path, process: subprocess.Popen[bytes], timeout: float) -> Running | None:
    """The account of a supervisor with everything up (or failed); None when it ended or takes longer than ``timeout``."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        running = read_running(root)
        if running is not None and running.state == "running" and all(plugin.state != "starting" for plugin in running.plugins):
            return running
        time.sleep(POLL)
    return None


def _error_in(lines: list[str]) -> tuple[str, str]:
    """Problem and hint of the error that the background process printed last."""
    problem = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), "")
    hint = next((line.removeprefix("hint:").strip() for line in reversed(lines) if line.startswith("hint:")), "")
    return problem, hint
