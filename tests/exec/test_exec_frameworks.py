"""Unmodified scripts of the frameworks, as they are installed from PyPI, under `trainbus exec`."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys

import pytest

from tests.exec.conftest import DEADLINE, OFFLINE, SCRIPTS
from tests.support import wait_for
from tests.trainer.conftest import questions as questions
from tests.trainer.conftest import tiny_base as tiny_base
from trainbus.bus.client import Client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
LONG = 500.0


def raw_losses(output):
    return [line.removeprefix("raw ") for line in output.splitlines() if line.startswith("raw ")]


def losses(steps):
    return [repr(step.metrics["loss"]) for step in steps]


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_lightning_publishes_every_raw_loss(execute, published, tmp_path, package):
    """Under both of its names, with NaN, the validation and the checkpoint; logger=False stays no logger."""
    pytest.importorskip(package)
    script = str(SCRIPTS / "lightning_fit.py")
    result = execute(sys.executable, script, options=("--run", "r"), env={**OFFLINE, "PACKAGE": package, "NAN_AT": "2"}, timeout=LONG)
    assert result.returncode == 0, result.stderr
    assert "could not" not in result.stderr
    steps = published("step")
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    assert losses(steps) == raw_losses(result.stdout)
    assert steps[2].metrics["loss"] != steps[2].metrics["loss"]
    assert steps[0].metrics["learning_rate"] == 0.05
    assert {"loss"} <= set(published("eval")[-1].metrics)
    complete = [event.path for event in published("checkpoint") if event.state == "complete"]
    assert complete == [str(tmp_path / "checkpoints" / "epoch=0-step=6.ckpt")]
    assert published("run_started")[1].config["rate"] == 0.05
    (ended,) = published("run_ended")
    assert (ended.outcome, ended.exit_code, ended.step) == ("completed", 0, 6)


def test_accelerate_s_trackers_get_one_more(execute, published, tmp_path):
    """Beside the one that the script has chosen, which goes on as ever."""
    line = ("accelerate", "launch", "--cpu", "--num_processes", "1", str(SCRIPTS / "accelerate_loop.py"))
    result = execute(*line, options=("--run", "r"), env=OFFLINE, timeout=LONG)
    assert result.returncode == 0, result.stderr
    steps = published("step")
    assert [step.step for step in steps] == [1, 2, 3, 4, 5]
    assert str(steps[3].metrics["loss"]) == "nan"
    assert steps[0].metrics["learning_rate"] == 0.05
    assert [event.metrics for event in published("eval")] == [{"loss": 0.25}]
    assert published("run_started")[1].config == {"project": "bench", "rate": 0.05}
    assert list((tmp_path / "logs").rglob("events.out.tfevents*"))


def test_trl_s_own_command_is_watched_through_accelerate_launch(execute, published, tmp_path, tiny_base):
    """`trl sft` starts a launcher that starts Python: the callback is in the process that trains."""
    pytest.importorskip("trl")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("".join(json.dumps({"text": f"{i}+{i}={2 * i}"}) + "\n" for i in range(32)))
    options = (
        "--model_name_or_path", str(tiny_base), "--dataset_name", str(tmp_path / "data"), "--output_dir", "sft", "--max_steps", "4",
        "--per_device_train_batch_size", "2", "--logging_steps", "1", "--save_steps", "2", "--max_length", "64", "--use_cpu",
        "--bf16", "false", "--report_to", "none",
    )  # fmt: skip
    result = execute("trl", "sft", *options, options=("--run", "r"), env=OFFLINE, timeout=LONG)
    assert result.returncode == 0, result.stderr
    steps = published("step")
    assert [step.step for step in steps] == [1, 2, 3, 4]
    logged = [line.split("'loss': '")[1].split("'")[0] for line in result.stdout.splitlines() if "'loss': '" in line]
    assert [f"{step.metrics['loss']:.4g}" for step in steps] == logged
    assert [event.step for event in published("checkpoint") if event.state == "complete"] == [2, 4]
    started = published("run_started")
    assert [event.name for event in started] == ["trl-sft", "trl-sft"]
    assert started[1].config["trainer"] == "SFTTrainer"
    assert started[0].pid != started[1].pid
    assert published("run_ended")[0].outcome == "completed"


@pytest.mark.parametrize("way", ["rewritten", "derived"])
def test_a_trainer_that_was_patched_as_unsloth_and_axolotl_do_is_watched(execute, published, tmp_path, way):
    """Methods made anew from their source, a generated class in Trainer's place, mixins: every step, checkpoint and the end are there."""
    result = execute(sys.executable, str(SCRIPTS / "patched_trainer.py"), way, options=("--run", "r"), env=OFFLINE, timeout=LONG)
    assert (result.returncode, result.stdout.splitlines()[-1]) == (0, "trained 6"), result.stderr
    assert "not watched" not in result.stderr
    steps = published("step")
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(step.metrics["loss"]) for step in steps)
    assert [event.step for event in published("checkpoint") if event.state == "complete"] == [3, 6]
    assert published("run_started")[1].config["trainer"] == {"rewritten": "CompiledTrainer", "derived": "DerivedTrainer"}[way]
    assert published("run_ended")[0].outcome == "completed"


def test_under_torchrun_only_the_first_of_two_processes_publishes(execute, published):
    """Grandchildren of the command find the bus by their environment."""
    line = ("torchrun", "--standalone", "--nproc-per-node", "2", str(SCRIPTS / "ddp_trainer.py"))
    result = execute(*line, options=("--run", "r"), env={**OFFLINE, "STEPS": "3"}, timeout=LONG)
    assert result.returncode == 0, result.stderr
    assert {"rank 0 of 2", "rank 1 of 2"} <= set(result.stdout.splitlines())
    steps = published("step")
    assert [(step.step, step.rank, step.run) for step in steps] == [(1, 0, "r"), (2, 0, "r"), (3, 0, "r")]
    assert [event.world_size for event in published("run_started")] == [1, 2]
    (ended,) = published("run_ended")
    assert (ended.outcome, ended.exit_code) == ("completed", 0)


def test_plain_pytorch_that_writes_tensorboard_is_supervised(execute, published, tmp_path):
    """Nothing is injected into it; its exit code and its files are as ever."""
    result = execute(sys.executable, str(SCRIPTS / "tensorboard_loop.py"), options=("--run", "r"), env=OFFLINE, timeout=LONG)
    assert (result.returncode, result.stdout) == (5, "the script is done\n")
    assert list((tmp_path / "tb").glob("events.out.tfevents*"))
    (ended,) = published("run_ended")
    assert (ended.outcome, ended.exit_code) == ("failed", 5)


def test_commands_steer_a_script_that_knows_nothing_of_them(begin, broker, trainbus_home):
    """Set, save, pause, resume and stop, each answered; the script then goes on to its end."""
    script = str(SCRIPTS / "hf_trainer.py")
    process = begin(
        sys.executable,
        script,
        options=("--run", "r"),
        env={**OFFLINE, "STEPS": "10000000"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    wait_for(lambda: process.poll() is not None or broker("step", run="r"), LONG)

    def ask(verb, **arguments):
        with Client(root=trainbus_home, timeout=DEADLINE) as client:
            command = client.command("r", verb, requested_by="test", **arguments)

        def answered():
            return [event for event in broker("command_result", run="r") if event.command == command and event.state != "accepted"]

        (result,) = wait_for(answered, LONG, what=verb)
        return result

    assert ask("set", learning_rate=0.125).state == "done"
    assert ask("pause").state == "done"
    saved = ask("save")
    assert saved.state == "done", saved
    assert ask("resume").state == "done"
    assert ask("stop", reason="enough").state == "done"
    assert process.wait(LONG) == 0
    assert any(step.metrics["learning_rate"] == 0.125 for step in broker("step", run="r"))
    (ended,) = broker("run_ended", run="r")
    assert (ended.outcome, ended.reason, ended.exit_code) == ("stopped", "enough", 0)


def test_a_training_that_is_killed_leaves_nothing_undelivered(begin, broker, trainbus_home):
    """Its own spool is drained before the end is told, so that the end is the last event of the run."""
    script = str(SCRIPTS / "hf_trainer.py")
    process = begin(
        "sh", "-c", f'{sys.executable} {script}; exit $?', options=("--run", "r"), env={**OFFLINE, "STEPS": "10000000"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_for(lambda: process.poll() is not None or len(broker("run_started", run="r")) == 2, LONG)
    wait_for(lambda: process.poll() is not None or broker("step", run="r"), LONG)

    os.kill(broker("run_started", run="r")[1].pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=LONG)
    assert process.returncode == 128 + signal.SIGKILL, errors
    found = broker(run="r")
    assert [event.kind for event in found if event.kind in ("run_ended", "alert")] == ["alert", "run_ended"]
    assert found[-1].kind == "run_ended"
    assert found[-1].outcome == "failed"
    assert list((trainbus_home / "spool").iterdir()) == []
