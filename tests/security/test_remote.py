"""Another machine: its own home, its own network, one token. Everything by the command line, as a person does it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.hosting.conftest import site  # noqa: F401 - a fixture
from tests.security.namespaces import SERVER, laid, missing
from tests.support import wait_for
from trainbus.bus.credentials import PREFIX, parse_token

WATCHER = """
class P:
    '''Writes down the steps that it saw, tries to publish, and to steer when it is asked to.'''
    @hookimpl
    def start(self, context):
        self.file = os.open(context.directory / "seen", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @hookimpl
    def on_step(self, event, context):
        os.write(self.file, b"%d\\n" % event.step)
        context.state["count"] = context.state.get("count", 0) + 1
        context.publish(events.Metric(name="seen", value=float(event.step)))
"""

TRAINING = """
import sys, time, trainbus
run = trainbus.init("far", run="far-1")
for step in range(int(sys.argv[1])):
    run.step(step, loss=1.0)
    time.sleep(0.02)
print("acknowledged", run.flush(60))
run.close()
"""


LOOKING = [
    words.split()
    for words in (
        "status", "status --json", "keys list", "keys list --json", "doctor --json", "config show", "cursors list", "tail -n 50 --json",
        "runs delete far-1 --yes",
    )
]  # fmt: skip
"""Commands whose output anybody may look over a shoulder at."""


class Machine:
    """A home and a network of its own, in which `trainbus` commands run."""

    def __init__(self, name: str, directory: Path, prefix: list[str]) -> None:
        self.home = directory / name
        self.name = name
        self._prefix = prefix
        self._directory = directory
        self._started: list[subprocess.Popen[str]] = []
        self.outputs: list[str] = []

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "TRAINBUS_HOME": str(self.home), "PYTHONUNBUFFERED": "1", **more}

    def trainbus(self, *arguments: str, stdin: str = "", timeout: float = 120.0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        command = [*self._prefix, sys.executable, "-m", "trainbus", *arguments]
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False, env=self.environment(**variables),
            cwd=self._directory,
        )  # fmt: skip
        self.outputs += [done.stdout, done.stderr]
        return done

    def json(self, *arguments: str, **variables: str):
        done = self.trainbus(*arguments, "--json", **variables)
        assert done.returncode == 0, done
        return json.loads(done.stdout)

    def start(self, *arguments: str, program: list[str] | None = None, stdin: str | None = None, **variables: str) -> subprocess.Popen[str]:
        """Start a command that goes on; its output goes to a file."""
        log = self._directory / f"{self.name}-{len(self._started)}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [*self._prefix, sys.executable, *(program or ["-m", "trainbus", *arguments])],
                env=self.environment(**variables), stdout=output, stderr=subprocess.STDOUT, text=True, cwd=self._directory,
                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            )  # fmt: skip
        if stdin is not None:
            process.stdin.write(stdin)
            process.stdin.close()
        process.log = log
        self._started.append(process)
        return process

    def seen(self, plugin: str = "watcher") -> list[int]:
        file = self.home / "plugins" / plugin / "seen"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def close(self) -> None:
        for process in reversed(self._started):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(180)
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def namespaces():
    """Skips where they are not allowed."""
    if reason := missing():
        pytest.skip(reason)


@pytest.fixture
def cable(namespaces):
    with laid() as cable:
        yield cable


@pytest.fixture
def machines(cable, tmp_path, site):  # noqa: F811
    """``server``, ``laptop``."""
    site.install("watcher", WATCHER)
    both = [Machine(name, tmp_path, ["ip", "netns", "exec", space]) for name, space in (("server", cable.server), ("laptop", cable.laptop))]
    yield both
    for machine in reversed(both):
        machine.close()


def up(server: Machine) -> None:
    """Start the bus on its outer address, and wait."""
    assert server.trainbus("up", "--bind", SERVER, "--detach", timeout=90).returncode == 0


@pytest.fixture
def bus(machines):
    """A bus that listens on the cable: ``server``, ``laptop`` and what invites."""
    server, laptop = machines
    first = invite(server, "first", "observer")
    up(server)
    yield server, laptop, first
    server.trainbus("down")


def invite(server: Machine, name: str, role: str) -> str:
    return server.json("keys", "invite", name, "--role", role, "--host", SERVER)["token"]


def publish(machine: Machine, steps: int, **variables: str) -> subprocess.Popen[str]:
    return machine.start(program=["-c", TRAINING, str(steps)], **variables)


def test_other_addresses_are_refused_until_somebody_is_invited(machines):
    """And the message says how."""
    server, _ = machines
    refused = server.trainbus("up", "--bind", SERVER)
    assert refused.returncode == 2
    assert "trainbus keys invite" in refused.stderr


def test_one_token_is_all_that_a_remote_dashboard_needs(bus):
    """`attach PLUGIN TOKEN` with an observer's key: history, then live; its cursor is in the broker, its directory here."""
    server, laptop, _ = bus
    token = invite(server, "desk", "observer")
    assert publish(server, 20).wait(180) == 0
    attached = laptop.start("attach", "watcher", token)
    wait_for(lambda: len(laptop.seen()) == 20, 60)
    assert publish(server, 10).wait(180) == 0
    wait_for(lambda: len(laptop.seen()) == 30, 60)
    assert not (server.home / "plugins" / "watcher").exists()
    consumers = {cursor["consumer"]: cursor for cursor in server.json("cursors", "list")}
    assert "desk:plugin:watcher" in consumers
    # The token is not in the arguments of any process any more, and the next time its name is enough.
    assert token not in subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    attached.send_signal(signal.SIGTERM)
    assert attached.wait(180) == 0
    said = attached.log.read_text()
    assert "role observer" in said  # what it published was dropped, with a word
    assert parse_token(token).secret_key not in said
    assert token not in said
    stored = laptop.home / "keys" / "remote" / "desk"
    assert stored.stat().st_mode & 0o777 == 0o600
    again = laptop.start("attach", "watcher", "desk")
    assert publish(server, 5).wait(180) == 0
    wait_for(lambda: len(laptop.seen()) == 35, 60)
    again.send_signal(signal.SIGTERM)
    assert again.wait(180) == 0


def test_every_command_works_from_afar_with_the_environments_token(bus):
    """status, runs and tail with an observer's; a training with a publisher's."""
    server, laptop, _ = bus
    watch, train = invite(server, "watch", "observer"), invite(server, "gpu", "publisher")
    training = publish(laptop, 20, TRAINBUS_TOKEN=train)
    assert training.wait(180) == 0
    assert "acknowledged True" in training.log.read_text()
    assert laptop.json("status", TRAINBUS_TOKEN=watch)["broker"]["keys"]["clients"] == 4
    assert [run["run"] for run in laptop.json("runs", "list", TRAINBUS_TOKEN=watch)] == ["far-1"]
    tailed = laptop.trainbus("tail", "--kind", "step", "-n", "3", "--json", TRAINBUS_TOKEN=watch)
    assert [json.loads(line)["step"] for line in tailed.stdout.splitlines()] == [17, 18, 19]


def test_a_publishing_plugin_runs_from_afar_with_a_publishers_key(bus):
    """Its events reach the journal under its own source."""
    server, laptop, _ = bus
    laptop.start("attach", "watcher", "-", stdin=invite(server, "sensor", "publisher") + "\n")
    assert publish(server, 8).wait(180) == 0
    wait_for(lambda: len(laptop.seen()) == 8, 60)

    def metrics() -> list[str]:
        return server.trainbus("tail", "--kind", "metric", "-n", "100", "--json").stdout.splitlines()

    wait_for(lambda: len(metrics()) == 8, 60)


def test_a_role_that_is_too_small_is_named_with_the_one_that_is_needed(bus):
    """Exit code 4, and what to ask for."""
    server, laptop, token = bus
    assert publish(server, 2).wait(180) == 0
    refused = laptop.trainbus("runs", "delete", "far-1", "--yes", TRAINBUS_TOKEN=token)
    assert refused.returncode == 4
    assert "needs admin" in refused.stderr
    assert "observer" in refused.stderr


def test_a_token_that_opens_nothing_says_why(bus):
    """Damaged, revoked, or for a machine that does not answer; none of it takes long, none of it quotes the token."""
    server, laptop, _ = bus
    token = invite(server, "gone", "observer")
    for damaged in (token[:-9], PREFIX + "x", "no-such-name"):
        refused = laptop.trainbus("attach", "watcher", damaged)
        assert refused.returncode == 2, refused
        assert "Traceback" not in refused.stderr
        assert len(damaged) < 20 or damaged not in refused.stderr
    assert server.json("keys", "revoke", "gone") == {"revoked": "gone", "applied": True}
    for arguments in (("attach", "watcher", token), ("status",), ("tail",)):
        refused = laptop.trainbus(*arguments, TRAINBUS_TOKEN=token)
        assert refused.returncode == 4, refused
        assert "revoked" in refused.stderr
    nowhere = msgspec.structs.replace(parse_token(token), router="tcp://10.77.0.9:1", xpub="tcp://10.77.0.9:2").token()
    refused = laptop.trainbus("status", TRAINBUS_TOKEN=nowhere)
    assert refused.returncode == 3, refused
    assert "10.77.0.9" in refused.stderr


def test_revoking_a_key_ends_the_plugin_that_runs_with_it(bus):
    """It says why, and sees nothing of what comes after."""
    server, laptop, _ = bus
    attached = laptop.start("attach", "watcher", invite(server, "guest", "observer"))
    assert publish(server, 3).wait(180) == 0
    wait_for(lambda: len(laptop.seen()) == 3, 60)
    assert server.json("keys", "revoke", "guest")["applied"]
    assert publish(server, 3).wait(180) == 0
    assert attached.wait(180) == 4
    assert "revoked" in attached.log.read_text()
    assert len(laptop.seen()) == 3


def test_a_slow_and_cut_cable_loses_nothing(bus, cable):
    """Neither for the training on the far side nor for the plugin there; training does not wait for the network."""
    server, laptop, _ = bus
    cable.delay(80)  # where the kernel can't, the cut alone is tested
    attached = laptop.start("attach", "watcher", "-", stdin=invite(server, "sensor", "publisher") + "\n")
    training = publish(laptop, 300, TRAINBUS_TOKEN=invite(server, "gpu", "publisher"))
    wait_for(lambda: len(laptop.seen()) > 20, 60)
    cable.cut()
    server_events = server.json("status")["broker"]["head"]
    publish(server, 5)
    wait_for(lambda: server.json("status")["broker"]["head"] > server_events, 60)  # the server goes on
    cable.mend()
    assert training.wait(180) == 0
    assert "acknowledged True" in training.log.read_text()
    wait_for(lambda: len(laptop.seen()) >= 305, 60)
    steps = server.trainbus("tail", "--run", "far-1", "--kind", "step", "-n", "1000", "--json").stdout.splitlines()
    assert len(steps) == 305
    attached.send_signal(signal.SIGTERM)
    assert attached.wait(180) == 0


def test_no_secret_is_in_any_output_log_or_process_list(bus):
    """Planted keys are looked for in everything that anybody can read but the files that hold them."""
    server, laptop, token = bus
    ops = invite(server, "ops", "operator")
    attached = laptop.start("attach", "watcher", "-", stdin=ops + "\n")
    assert publish(laptop, 3, TRAINBUS_TOKEN=ops).wait(180) == 0
    wait_for(lambda: len(laptop.seen()) == 3, 60)
    server.outputs.clear()
    for machine, variables in ((server, {}), (laptop, {"TRAINBUS_TOKEN": ops})):
        for arguments in LOOKING:
            machine.trainbus(*arguments, **variables)
    processes = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    attached.send_signal(signal.SIGTERM)
    attached.wait(180)
    book = json.loads((server.home / "keys" / "broker.json").read_text())
    local = json.loads((server.home / "keys" / "local.json").read_text())
    secrets = [book["secret_key"], local["secret_key"], *(parse_token(one).secret_key for one in (token, ops)), token, ops]
    places = {"ps": processes, **{f"output {number}": text for number, text in enumerate(server.outputs + laptop.outputs)}}
    for machine in (server, laptop):
        for file in machine.home.rglob("*"):
            if file.is_file() and "keys" not in file.relative_to(machine.home).parts:
                places[str(file)] = file.read_bytes().decode("latin-1")
        for process in machine._started:
            places[str(process.log)] = process.log.read_text()
    assert len(places) > 20
    leaks = [place for place, text in places.items() if any(secret in text for secret in secrets)]
    assert not leaks
