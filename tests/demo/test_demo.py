"""`trainbus demo`: the whole of it, shorter."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import wait_for


@pytest.mark.timeout(660)
def test_the_demo_trains_breaks_things_and_counts_that_nothing_was_lost(tmp_path):
    """Five plugins, a kill, a learning-rate fault, an examined and a deleted checkpoint; the exit code says that all checks held."""
    options = ["--exit", "--json", "--steps", "120", "--base-steps", "40", "--directory", str(tmp_path / "demo")]
    command = [sys.executable, "-m", "trainbus", "demo", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=640, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    account = json.loads(done.stdout)
    assert account["steps"] == 120
    assert account["published"] == account["journaled"] == account["delivered"] > 120
    assert (account["lost"], account["duplicated"], account["gaps"]) == (0, 0, 0)
    assert [line["plugin"] for line in account["plugins"]] == ["anomaly", "retention", "memory", "web", "inference"]
    assert {line["plugin"] for line in account["plugins"] if line["restarts"]} == {"retention"}
    assert all(check["ok"] for check in account["checks"]), account["checks"]


def test_a_directory_with_something_in_it_is_refused(tmp_path):
    """The demo never writes among somebody's files."""
    (tmp_path / "mine").touch()
    command = [sys.executable, "-m", "trainbus", "demo", "--exit", "--directory", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "is not empty" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


@pytest.fixture
def start(tmp_path):
    """Starts a process that lives in a demo's home."""
    started = []

    def start(*command):
        environment = os.environ | {"TRAINBUS_HOME": str(tmp_path / "demo" / "home")}
        started.append(subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def guard(start):
    """The guard of that demo, which is told so much before the demo is gone."""

    def run(said):
        process = start(sys.executable, "-m", "trainbus.demo.guard")
        process.communicate(said, timeout=120)
        assert process.returncode == 0

    return run


def test_what_a_killed_demo_has_started_ends(start, guard):
    """Its guard reads from a pipe that ends with the demo. Who lives in another home is nobody's business."""
    ours = start("sleep", "600")
    with subprocess.Popen(["sleep", "600"]) as other:
        guard("")
        assert ours.wait(60) == -signal.SIGTERM
        assert other.poll() is None
        other.kill()


@pytest.mark.slow
def test_what_does_not_end_by_itself_ends_by_force(start, guard):
    """After ten seconds."""
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    stubborn = start(sys.executable, "-c", deaf)
    assert stubborn.stdout.readline() == "deaf\n"
    guard("")
    assert stubborn.wait(60) == -signal.SIGKILL


def test_a_demo_that_ends_in_order_needs_no_guard(start, guard):
    """Nothing is signalled after its word."""
    ours = start("sleep", "600")
    guard("done")
    assert ours.poll() is None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_demo_that_is_killed_leaves_no_process(tmp_path):
    """kill -9 when all five plugins run: they, the bus and the model server end."""
    directory = tmp_path / "demo"
    options = ["--exit", "--json", "--steps", "100000", "--base-steps", "20", "--directory", str(directory)]
    command = [sys.executable, "-m", "trainbus", "demo", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as demo:
        try:
            wait_for(lambda: (directory / "train.log").exists() or demo.poll() is not None, 600.0, what="the training has begun")
            assert demo.poll() is None
            assert len(processes_of(directory)) >= 4
        finally:
            demo.kill()
    wait_for(lambda: not processes_of(directory), 180.0, what="everything has ended")


def processes_of(directory):
    """All processes that live in a demo's home."""
    home = f"TRAINBUS_HOME={directory / 'home'}".encode()
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if home in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
    return found
