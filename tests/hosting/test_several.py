"""Several trainings, several buses and several users on one machine."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading

import pytest

import trainbus as package
from tests.support import trainbus, wait_for
from trainbus.bus.client import Client
from trainbus.bus.home import read_connection


@pytest.fixture
def bus(tmp_path):
    """Starts buses without plugins, each in a home of its own: ``bus(NAME)`` gives its environment. They are stopped at the end."""
    begun = []

    def up(name: str, *options: str) -> dict[str, str]:
        environment = {**os.environ, "TRAINBUS_HOME": str(tmp_path / name)}
        done = trainbus("up", "--detach", "--plugins", "", *options, env=environment)
        assert done.returncode == 0, done.stderr
        begun.append(environment)
        return environment

    yield up
    for environment in begun:
        trainbus("down", env=environment)


def test_two_buses_on_one_machine_know_nothing_of_each_other(bus, tmp_path):
    """Each has its ports, its journal and its end; the system chooses ports, so none is in the way."""
    bus("one")
    second = bus("two")
    connections = [read_connection(tmp_path / name) for name in ("one", "two")]
    assert len({address for one in connections for address in (one.router, one.xpub)}) == 4
    for name in ("one", "two"):
        with package.init(f"of-{name}", run=f"of-{name}", root=tmp_path / name) as run:
            run.step(1, loss=1.0)
            assert run.flush(60.0)
    for name in ("one", "two"):
        with Client(root=tmp_path / name) as client:
            assert [run.run for run in client.runs()] == [f"of-{name}"]
    assert trainbus("down", env={**second, "TRAINBUS_HOME": str(tmp_path / "one")}).returncode == 0
    with Client(root=tmp_path / "two") as client:
        assert client.status().pid == connections[1].pid


def test_several_trainings_share_a_bus_and_are_steered_one_by_one(bus, tmp_path):
    """At the same time: each run is whole and in order, and a command reaches the one that it names."""
    bus("home")
    commands: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    enough = threading.Event()

    def train(name: str) -> None:
        with package.init(name, run=name, root=tmp_path / "home") as run:
            for step in range(300):
                run.step(step, loss=1.0)
            while not enough.wait(0.02):
                for command in run.commands():
                    commands[name].append(command.verb)
                    run.result(command)

    threads = [threading.Thread(target=train, args=(name,)) for name in commands]
    for thread in threads:
        thread.start()
    try:
        with Client(root=tmp_path / "home") as client:
            wait_for(lambda: {run.run for run in client.runs() if run.state == "running"} == set(commands), 60.0)
            client.command("b", "save", requested_by="test")
            wait_for(lambda: commands["b"] == ["save"], 60.0, what="the command arrives")
    finally:
        enough.set()
        for thread in threads:
            thread.join()
    with Client(root=tmp_path / "home") as client:
        wait_for(lambda: all(run.state == "completed" for run in client.runs()), 60.0)
        for name in commands:
            assert [event.step for event in client.events(kinds=("step",), runs=(name,))] == list(range(300))
    assert (commands["a"], commands["c"]) == ([], [])


def test_another_user_comes_in_with_a_token_only_and_reads_no_file(bus, tmp_path):
    """Once there are keys: no token, no step on the bus; with one, publishing from a home of one's own. No file is open to others."""
    bus("home")
    home = tmp_path / "home"
    owner = {**os.environ, "TRAINBUS_HOME": str(home)}
    token = trainbus("keys", "invite", "colleague", "--role", "publisher", env=owner).stdout.split()[-1]
    wait_for(lambda: (keys := status(home).keys) is not None and keys.clients == 2, 60.0, what="the broker goes by its keys")
    for path in (home, *home.rglob("*")):
        assert not path.lstat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), f"{path} is open to others"
    address = read_connection(home).router
    stranger = {**os.environ, "TRAINBUS_HOME": str(tmp_path / "stranger")}
    refused = subprocess.run(
        [sys.executable, "-c", f"from trainbus.bus.client import Client; Client({address!r}, timeout=3.0).status()"],
        env=stranger, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert refused.returncode != 0
    published = subprocess.run(
        [sys.executable, "-c", "import trainbus\nwith trainbus.init('c', run='c') as r:\n    r.step(1, loss=1.0)\n    assert r.flush(60)"],
        env={**stranger, "TRAINBUS_TOKEN": token}, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert published.returncode == 0, published.stderr
    with Client(root=home) as client:
        assert [run.run for run in client.runs()] == ["c"]


def status(home):
    with Client(root=home, timeout=5.0) as client:
        return client.status()
