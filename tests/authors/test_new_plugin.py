"""`trainbus plugins new`: what it writes works as it is, for somebody who has only installed trainbus."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import trainbus as package
from tests.support import wait_for
from trainbus.bus.events import Alert
from trainbus.cli.app import run
from trainbus.testing import LocalBus


@pytest.fixture(scope="module")
def made(stranger, tmp_path_factory):
    """A new plugin's folder, installed."""
    folder = tmp_path_factory.mktemp("work")
    said = stranger.run("trainbus", "plugins", "new", "loss-limit", cwd=folder).stdout
    assert "  pip install -e './trainbus-loss-limit[dev]'\n" in said
    stranger.run("pip", "install", "--quiet", "./trainbus-loss-limit", cwd=folder)
    yield folder / "trainbus-loss-limit"
    stranger.run("pip", "uninstall", "--quiet", "-y", "trainbus-loss-limit")


def test_a_new_plugin_passes_its_own_tests(stranger, made, tmp_path):
    """With the fixtures that pytest finds by itself; the last of them starts it in a real plugin host."""
    result = stranger.run("pytest", "-q", "-p", "no:cacheprovider", cwd=made, home=tmp_path)
    assert "4 passed" in result.stdout


def test_a_new_plugin_is_listed_and_watches_a_real_run(stranger, made, trainbus_home):
    """By its name, on a real bus, with a setting of its own; its alert is in the journal."""
    rows = json.loads(stranger.run("trainbus", "plugins", "list", "--json", home=trainbus_home).stdout)
    (row,) = [row for row in rows if row["name"] == "loss-limit"]
    assert row["hooks"] == ["config_schema", "on_run_ended", "on_step"]
    with LocalBus(trainbus_home) as bus:
        command = [str(stranger.bin / "trainbus"), "attach", "loss-limit", "--option", "limit=2.0"]
        process = subprocess.Popen(command, env=stranger.environment(trainbus_home), stderr=subprocess.PIPE, text=True)
        try:
            with package.init("r", run="r", root=bus.root) as training:
                for step in range(1, 11):
                    training.step(step, loss=float(step))
                assert training.flush(30.0)
                alerts = wait_for(lambda: process.poll() is not None or bus.events("alert"), 60.0, what="the alert")
            assert process.poll() is None, process.stderr.read()
            assert [(alert.id, alert.step) for alert in alerts] == [("loss-limit:r:3", 5)]
            assert isinstance(alerts[0], Alert)
        finally:
            process.terminate()
            process.communicate(timeout=30)


def test_a_module_in_the_working_directory_is_attached_without_any_installation(stranger, trainbus_home, tmp_path):
    """By the installed `trainbus` command, which does not look there by itself."""
    source = (
        "from trainbus import hookimpl\nclass Mine:\n    @hookimpl\n    def start(self, context): (context.directory / 'here').touch()\n"
    )
    (tmp_path / "my_module.py").write_text(source)
    with LocalBus(trainbus_home):
        command = [str(stranger.bin / "trainbus"), "attach", "my_module:Mine"]
        process = subprocess.Popen(command, cwd=tmp_path, env=stranger.environment(trainbus_home), stderr=subprocess.PIPE, text=True)
        try:
            started = trainbus_home / "plugins" / "mine" / "here"
            wait_for(lambda: process.poll() is not None or started.exists(), 60.0, what="its start")
            assert started.exists(), process.stderr.read()
        finally:
            process.terminate()
            process.communicate(timeout=30)


def test_a_new_plugin_is_good_code(made, repository):
    """Formatted, linted and typed as trainbus itself is."""
    for check in (["format", "--check"], ["check"]):
        configured = [sys.executable, "-m", "ruff", *check, "--config", str(repository / "pyproject.toml"), str(made / "src")]
        result = subprocess.run(configured, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["Loss", "9lives", "a/b", "..", "loss--limit", "class", "-x", ""])
def test_names_that_no_package_can_have_are_refused(here, capsys, name):
    """One sentence and what is allowed; nothing is written."""
    assert run(["plugins", "new", "--", name]) == 6
    assert "Small letters and digits" in capsys.readouterr().err
    assert list(here.glob("trainbus*")) == []


def test_names_that_are_taken_are_refused(here, capsys):
    """By a plugin that is installed, by a command, by something in the way."""
    (here / "trainbus-mine").mkdir()
    (here / "trainbus-mine" / "file").touch()
    for name, words in (("anomaly", "trainbus already brings a plugin"), ("status", "is a command"), ("mine", "--directory")):
        assert run(["plugins", "new", name]) == 6
        assert words in capsys.readouterr().err


def test_json_tells_what_was_written(here, capsys):
    """For scripts."""
    assert run(["plugins", "new", "x-y", "--directory", "here", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["plugin"] == "x-y"
    assert "here/src/trainbus_x_y/plugin.py" in answer["files"]
    assert all((here / file).is_file() for file in answer["files"])
