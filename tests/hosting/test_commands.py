"""`up`, `status`, `down`, `reload`, `plugins`, `attach` and `service` as people type them."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests.hosting.system import RECORDER, alive
from tests.support import trainbus, wait_for


@pytest.fixture
def detached(system, site):
    """`trainbus up --detach` with one plugin; what it printed is ``.shown``."""
    site.install("recorder", RECORDER)
    system.configure("recorder")
    system.shown = trainbus("up", "--detach", "--config", str(system.config))
    yield system
    trainbus("down")


def status(code=0):
    result = trainbus("status", "--json")
    assert result.returncode == code, result.stderr
    return json.loads(result.stdout)


def test_up_detached_returns_when_all_is_up_and_down_stops_it(detached):
    """The table names the plugins; down names what it stopped, and nothing is left."""
    assert detached.shown.returncode == 0, detached.shown.stderr
    assert "recorder" in detached.shown.stdout
    document = status()
    pids = [document["broker"]["pid"], document["supervisor"]["pid"], document["plugins"][0]["pid"]]
    assert all(alive(pid) for pid in pids)
    assert "127.0.0.1" in document["broker"]["router"]
    assert [(plugin["name"], plugin["state"]) for plugin in document["plugins"]] == [("recorder", "running")]
    shown = trainbus("status").stdout
    assert "recorder" in shown
    assert str(pids[0]) in shown
    down = trainbus("down", "--json")
    assert json.loads(down.stdout)["stopped"] == {"recorder": pids[2], "broker": pids[0], "supervisor": pids[1]}
    assert not any(alive(pid) for pid in pids)


def test_without_anything_running_each_command_says_so_and_exits_with_3():
    """A clear message and what to do."""
    for arguments in (["status"], ["status", "--json"], ["down"], ["reload"], ["plugins", "restart", "x"]):
        result = trainbus(*arguments)
        assert result.returncode == 3, arguments
        assert "trainbus up" in result.stdout + result.stderr
        assert "Traceback" not in result.stderr


def test_status_and_down_work_with_a_dead_broker(detached):
    """A frozen broker answers nobody; the supervisor's own account is shown, and down is obeyed."""
    broker = status()["broker"]["pid"]
    os.kill(broker, signal.SIGSTOP)
    try:
        document = status(code=1)
        assert document["broker"] is None
        assert [plugin["name"] for plugin in document["plugins"]] == ["recorder"]
        assert "does not answer" in trainbus("status").stdout
    finally:
        os.kill(broker, signal.SIGCONT)
    assert trainbus("down").returncode == 0


def test_up_detached_tells_of_failed_plugins(site, system):
    """Exit code 1, and the error in the table; the rest runs."""
    site.install("bad", "class P:\n    @hookimpl\n    def on_setp(self): pass\n")
    system.configure("bad")
    result = trainbus("up", "-d", "--config", str(system.config), env={**os.environ, "COLUMNS": "300"})
    try:
        assert result.returncode == 1
        assert "Did you mean 'on_step'?" in result.stdout
    finally:
        assert trainbus("down").returncode == 0


def test_up_detached_passes_on_why_it_can_t_start(system):
    """A broken configuration is told by the command itself."""
    system.config.write_text("[bus]\nlost_afer = 3\n")
    result = trainbus("up", "--detach", "--config", str(system.config))
    assert result.returncode == 2
    assert "lost_after" in result.stderr


def test_plugins_are_listed_added_restarted_and_removed(detached, site):
    """Exit code 0 for what works, 6 for a name that is not installed."""
    site.install("second", RECORDER)
    rows = {row["name"]: row for row in json.loads(trainbus("plugins", "list", "--json").stdout)}
    assert rows["second"]["hooks"] == ["start", "stop", "on_step"]
    assert (rows["recorder"]["state"], rows["second"]["state"]) == ("running", None)
    assert (rows["recorder"]["enabled"], rows["second"]["enabled"]) == (True, False)
    assert json.loads(trainbus("plugins", "add", "second", "--json").stdout)["state"] == "running"
    assert "second" in detached.config.read_text()
    assert trainbus("plugins", "restart", "second").returncode == 0
    removed = trainbus("plugins", "remove", "second", "--no-save", "--json")
    assert json.loads(removed.stdout)["state"] == "stopped"
    assert "second" in detached.config.read_text()
    reloaded = json.loads(trainbus("reload", "--json").stdout)
    assert (reloaded["added"], reloaded["unchanged"]) == (["second"], ["recorder"])
    unknown = trainbus("plugins", "add", "secnd")
    assert unknown.returncode == 6
    assert "Did you mean 'second'?" in unknown.stderr


def test_plugins_are_enabled_in_the_file_while_nothing_runs(site, system, tmp_path):
    """The list in the file is all there is to change."""
    site.install("recorder", RECORDER)
    system.configure()
    environment = {**os.environ, "TRAINBUS_CONFIG": str(system.config)}
    assert trainbus("plugins", "add", "recorder", env=environment).returncode == 0
    assert "recorder" in system.config.read_text()
    assert trainbus("plugins", "remove", "recorder", env=environment).returncode == 0
    assert "recorder" not in system.config.read_text()
    assert trainbus("plugins", "remove", "recorder", env=environment).returncode == 2


def test_attach_runs_a_plugin_in_development_until_ctrl_c(detached, site):
    """By module and object; Ctrl-C is an orderly end."""
    module = site.install("mine", RECORDER)
    shutil.rmtree(next(site.directory.glob("mine_dist*")))
    command = [sys.executable, "-m", "trainbus", "attach", f"{module}:P", "--name", "mine"]
    attached = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    detached.publish(5)
    wait_for(lambda: detached.seen("mine") == [0, 1, 2, 3, 4])
    attached.send_signal(signal.SIGINT)
    assert attached.wait(180) == 0
    assert (detached.root / "plugins/mine/seen").read_text().endswith("stop\n")
    bad = trainbus("attach", "json:dumps")
    assert bad.returncode == 6
    assert "implements no hook" in bad.stderr


def test_service_prints_a_unit_that_systemd_accepts(system, tmp_path, monkeypatch):
    """Also where paths hold blanks and percent signs."""
    config = tmp_path / "my 100% config.toml"
    config.write_text("")
    for extra in ([], ["--system"]):
        result = trainbus("service", "--config", str(config), *extra)
        assert result.returncode == 0
        unit = tmp_path / "trainbus.service"
        unit.write_text(result.stdout)
        assert "up --config" in result.stdout
        if shutil.which("systemd-analyze"):
            user = [] if extra else ["--user"]
            verified = subprocess.run(["systemd-analyze", "verify", *user, str(unit)], capture_output=True, text=True, check=False)
            complaints = [line for line in verified.stderr.splitlines() if "trainbus.service" in line]
            assert complaints == []
