"""What a command published, with a broker or without, and `trainbus exec` as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import wait_for
from tests.trainer.conftest import published as published
from trainbus.bus.client import Client
from trainbus.bus.home import read_connection
from trainbus.errors import UnreachableError

SCRIPTS = Path(__file__).parent / "scripts"
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
DEADLINE = 60.0


def exec_line(*command: str, options: tuple[str, ...] = ()) -> list[str]:
    """The command line of `trainbus exec` with a command."""
    return [sys.executable, "-m", "trainbus", "exec", *options, "--", *command]


@pytest.fixture
def execute(tmp_path):
    """Run a command to its end: ``execute("sh", "-c", "...", options=("--run", "r"))``."""

    def run(*command: str, options: tuple[str, ...] = (), env: dict[str, str] | None = None, timeout: float = 110.0, **settings):
        return subprocess.run(
            exec_line(*command, options=options),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
            **settings,
        )

    return run


@pytest.fixture
def begin(tmp_path):
    """Start a command and go on: for signals. Ends what is left at the end of the test."""
    started = []

    def start(*command: str, options: tuple[str, ...] = (), env: dict[str, str] | None = None, **settings):
        process = subprocess.Popen(
            exec_line(*command, options=options), cwd=tmp_path, env={**os.environ, **(env or {})}, text=True, **settings
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(DEADLINE)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def broker(trainbus_home):
    """A broker that runs, and what its journal holds: ``broker("step")``."""
    command = [sys.executable, "-m", "trainbus.bus.broker", "--root", str(trainbus_home)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def is_there():
        assert process.poll() is None
        try:
            return read_connection(trainbus_home)
        except UnreachableError:
            return None

    try:
        wait_for(is_there, DEADLINE)

        def read(*kinds: str, run: str = ""):
            with Client(root=trainbus_home, timeout=DEADLINE) as client:
                return list(client.events(kinds=kinds, runs=(run,) if run else ()))

        yield read
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE)
