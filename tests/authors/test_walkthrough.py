"""Somebody who knows only docs/plugins.md makes, installs, tests, enables, restarts and removes a plugin while a training runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import textwrap

import pytest

from tests.support import wait_for
from trainbus.bus.client import Client

TRAINING = """
import sys, time, trainbus
with trainbus.init("training", run="training") as run:
    step = 0
    while not run.commands():
        step += 1
        run.step(step, loss=20.0)
        time.sleep(0.005)
"""

ENABLES, TELLS = "trainbus plugins add loss-limit", "trainbus tail --kind alert"


def session(repository):
    """The commands of the section "Ten minutes", in order, as somebody types them."""
    section = (repository / "docs" / "plugins.md").read_text().partition("\n## Ten minutes\n")[2].partition("\n## ")[0]
    return [line.partition("#")[0].strip() for line in re.findall(r"^\$ (.*)$", section, re.MULTILINE)]


def journal(home, *kinds):
    with Client(root=home) as client:
        return list(client.events(kinds=kinds))


@pytest.fixture
def work(stranger, trainbus_home, tmp_path):
    """A folder in which a bus without plugins runs, and a training on it."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "trainbus.toml").write_text("plugins = []\n[bus]\nstop_timeout = 5.0\n")
    (folder / "training.py").write_text(textwrap.dedent(TRAINING))
    stranger.run("trainbus", "up", "--detach", home=trainbus_home, cwd=folder)
    command = [stranger.python, str(folder / "training.py")]
    training = subprocess.Popen(command, env=stranger.environment(trainbus_home), stderr=subprocess.PIPE, text=True)
    try:
        yield folder, training
    finally:
        training.terminate()
        training.communicate(timeout=60)
        stranger.run("trainbus", "down", home=trainbus_home, cwd=folder, ok=False)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_ten_minutes_of_the_page_work_while_a_training_runs_and_leave_no_mark_on_it(stranger, work, trainbus_home, repository):
    """Every command of the page, as it stands there; afterwards the training's steps are there without a hole."""
    folder, training = work
    commands = session(repository)
    assert {ENABLES, TELLS} <= set(commands)
    assert len(commands) == 10
    wait_for(lambda: len(journal(trainbus_home, "step")) > 10, 60.0, what="the training")
    seen = {}
    for command in commands:
        seen[command] = stranger.run(*shlex.split(command), home=trainbus_home, cwd=folder).stdout
        assert training.poll() is None, training.stderr.read()
        if command == ENABLES:
            wait_for(lambda: journal(trainbus_home, "alert"), 60.0, what="the new plugin's alert")
    assert "loss-limit" in seen["trainbus plugins list"]
    assert "The loss has been high for 3 steps; it is 20." in seen[TELLS]
    alerts = [(alert.id, alert.rule) for alert in journal(trainbus_home, "alert")]
    assert alerts == [("loss-limit:training:1", "loss-limit")], "once, also over the restart"
    with Client(root=trainbus_home) as client:
        client.command("training", "stop")
    assert training.wait(180) == 0
    ended = wait_for(lambda: journal(trainbus_home, "run_ended"), 60.0, what="the end of the training")
    steps = [event.step for event in journal(trainbus_home, "step")]
    assert steps == list(range(1, ended[0].step + 1))
    assert journal(trainbus_home, "gap") == []
    assert [plugin.state for plugin in journal(trainbus_home, "plugin") if plugin.name == "loss-limit"][-1] == "stopped"
    assert "loss-limit" not in (folder / "trainbus.toml").read_text()
    assert "loss-limit" not in stranger.run("trainbus", "plugins", "list", home=trainbus_home, cwd=folder).stdout
