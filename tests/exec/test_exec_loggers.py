"""`TrainbusLogger` for Lightning and `TrainbusTracker` for Accelerate, in code of one's own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.exec.conftest import OFFLINE, SCRIPTS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def run(text, tmp_path, trainbus_home):

    result = subprocess.run(
        [sys.executable, "-c", text], cwd=tmp_path, env={**os.environ, **OFFLINE}, capture_output=True, text=True, check=False, timeout=380
    )
    assert result.returncode == 0, result.stderr
    return result


def test_the_logger_of_lightning_publishes_what_is_logged(tmp_path, trainbus_home, published):
    """Each logged step, the validation, the configuration, and checkpoints, in a folder that is named after the run."""
    script = (SCRIPTS / "lightning_fit.py").read_text().replace("logger=False", "logger=LOGGER, log_every_n_steps=1")
    head = "import lightning.pytorch\nimport trainbus\nLOGGER = trainbus.TrainbusLogger('mine', root=None)\n"
    run(head + script, tmp_path, trainbus_home)
    started = published("run_started")
    assert [(event.name, event.config) for event in started] == [("mine", {}), ("mine", {"rate": 0.05})]
    assert len(published("step")) == 6
    assert all("loss" in step.metrics for step in published("step"))
    assert [set(event.metrics) for event in published("eval")] == [{"loss"}]
    (checkpoint,) = published("checkpoint")
    assert checkpoint.step == 6
    assert checkpoint.path.startswith(str(tmp_path / "mine" / started[0].run))
    assert published("run_ended")[0].outcome == "completed"


def test_the_tracker_of_accelerate_publishes_what_is_logged(tmp_path, trainbus_home, published):
    """With the configuration that `init_trackers` is given; `end_training` ends the run."""
    script = (SCRIPTS / "accelerate_loop.py").read_text().replace('log_with="tensorboard"', 'log_with=trainbus.TrainbusTracker("mine")')
    run("import trainbus\n" + script, tmp_path, trainbus_home)
    (started,) = published("run_started")
    assert (started.name, started.config) == ("mine", {"rate": 0.05})
    assert [step.step for step in published("step")] == [1, 2, 3, 4, 5]
    assert str(published("step")[3].metrics["loss"]) == "nan"
    assert [event.metrics for event in published("eval")] == [{"loss": 0.25}]
    assert published("run_ended")[0].outcome == "completed"
