"""Clients that know nothing but docs/protocol.md: in Python with pyzmq and msgpack, and in JavaScript (examples/node-client)."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import trainbus, wait_for
from trainbus.bus.client import Client
from trainbus.testing import LocalBus

FOREIGN = Path(__file__).parent / "foreign_client.py"
NODE = Path(__file__).parents[2] / "examples" / "node-client"
STEPS = 450


@pytest.fixture
def processes():
    """Processes that are killed when the test fails."""
    started = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            stream.close()


def conversation(home, command, processes, *losing):
    """A reader and a publisher of this client: the run as the reader saw it, and as the journal has it."""

    def start(*arguments):
        process = subprocess.Popen([*command, str(home), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    with LocalBus(home) as bus:
        reader = start("read", "r", *losing)
        publisher = start("publish", "r", str(STEPS))

        def arrived():
            assert publisher.poll() is None, publisher.stderr.read()
            assert reader.poll() is None, reader.stderr.read()
            return len(bus.events("step", run="r")) == STEPS

        wait_for(arrived, 60.0, what="all steps in the journal")
        with Client(root=home) as client:
            client.command("r", "stop", reason="enough")
        output, problem = reader.communicate(timeout=90)
        assert reader.returncode == 0, problem
        assert publisher.wait(180) == 0, publisher.stderr.read()
        return [json.loads(line) for line in output.splitlines()], bus.events(run="r")


def judge(seen, journal):
    """Every event of the run once, in order, whole; the command obeyed once."""
    assert [offset for offset, _ in seen] == [event.offset for event in journal]
    assert [body["kind"] for _, body in seen] == [event.kind for event in journal]
    kinds = [event.kind for event in journal]
    assert (kinds[0], kinds[-1], kinds.count("step"), kinds.count("command_result")) == ("run_started", "run_ended", STEPS, 1)
    steps = [event for event in journal if event.kind == "step"]
    assert [event.step for event in steps] == list(range(STEPS))
    assert steps[7].metrics["loss"] != steps[7].metrics["loss"]
    assert journal[-1].outcome == "stopped"
    assert journal[-1].reason == "enough"


@pytest.mark.parametrize("keys", [False, True], ids=["without keys", "with keys"])
def test_a_python_client_written_from_the_page_alone_publishes_subscribes_and_obeys(trainbus_home, processes, keys):
    """With pyzmq and msgpack; it asserts itself that nothing of ours was imported."""
    if keys:
        assert trainbus("keys", "invite", "laptop", "--role", "observer").returncode == 0
    judge(*conversation(trainbus_home, [sys.executable, str(FOREIGN)], processes))


def test_the_python_client_loses_nothing_when_the_fan_out_does(trainbus_home, processes):
    """Every third frame is thrown away: the next commit says so, and the journal has what is missing."""
    judge(*conversation(trainbus_home, [sys.executable, str(FOREIGN)], processes, "3"))


def test_the_foreign_client_imports_nothing_of_ours():
    """Neither trainbus nor msgspec nor anything of these tests."""
    imports = [node for node in ast.walk(ast.parse(FOREIGN.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in imports if isinstance(node, ast.ImportFrom)}
    assert names == {"json", "os", "sys", "time", "uuid", "pathlib", "msgpack", "zmq"}


@pytest.fixture(scope="session")
def node_client(tmp_path_factory):
    """The command that runs the example in JavaScript, with its packages installed by npm; skips with the reason where that can't be."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("no Node.js: neither node nor npm is on PATH" if node is None else "no npm")
    folder = tmp_path_factory.mktemp("node") / "node-client"
    shutil.copytree(NODE, folder, ignore=shutil.ignore_patterns("node_modules"))
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-timeout=20000"]
    try:
        installed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=90, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm ci did not end within 90 s")
    if installed.returncode != 0:
        pytest.skip(f"npm can't install the packages here: {installed.stderr.strip()[-300:]}")
    loads = subprocess.run([node, "-e", "require('zeromq')"], cwd=folder, capture_output=True, text=True, timeout=30, check=False)
    if loads.returncode != 0:
        pytest.skip(f"zeromq has no build for this machine: {loads.stderr.strip()[-300:]}")
    return [node, str(folder / "client.mjs")]


@pytest.mark.slow  # npm fetches its packages
def test_the_example_in_javascript_publishes_subscribes_and_obeys(trainbus_home, processes, node_client):
    """examples/node-client, as it stands there."""
    judge(*conversation(trainbus_home, node_client, processes))
