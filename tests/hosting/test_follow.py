"""Trainings that know nothing of trainbus, watched by their files, judged by the anomaly plugin: the whole system."""

import json
import math
import os
import signal
import subprocess
import sys

import pytest

from tests.support import wait_for
from trainbus.plugins.sinks import tfevents


def losses(spike_at, until=90):
    return [(step, 9.0 if step == spike_at else 1.0 + 0.001 * (step % 7)) for step in range(1, until)]


def test_a_spike_in_a_trainer_state_and_nan_in_a_tensorboard_folder_are_alerts(system, tmp_path):
    """No line of the trainings is changed; the follow plugin is killed in between and publishes nothing twice."""
    trainer, board = tmp_path / "gsm8k", tmp_path / "board"
    board.mkdir()
    files = [{"path": str(trainer), "run": "trainer"}, {"path": str(board), "run": "board"}]
    system.up("anomaly", "follow", follow={"files": files, "interval": 0.05}, anomaly={"figures": {"enabled": False}})

    def save(last):
        """As Trainer does with each checkpoint."""
        folder = trainer / f"checkpoint-{last}"
        folder.mkdir(parents=True)
        rows = [{"step": step, "epoch": step / 90, "loss": loss} for step, loss in losses(75) if step <= last]
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": last, "log_history": rows}))

    def append(stream, first, last):
        for step, loss in losses(0):
            if first <= step <= last:
                value = math.nan if step >= 80 else loss
                stream.write(
                    tfevents.scalars(float(step), step, [("train/loss", value)]) + tfevents.scalars(float(step), step, [("lr", 1e-4)])
                )
        stream.flush()

    def steps(run):
        return [event.step for event in system.events("step") if event.run == run]

    save(30)
    with (board / "events.out.tfevents.1.host").open("wb") as stream:
        stream.write(tfevents.version(0.0))
        append(stream, 1, 40)
        wait_for(lambda: len(steps("trainer")) >= 30 and len(steps("board")) >= 39, 60.0)
        status = system.wait_for_state("follow", "running")
        os.kill(status.pid, signal.SIGKILL)
        save(60)
        append(stream, 41, 89)
        system.wait_for_state("follow", "running", not_pid=status.pid)
        save(89)

        def alerts():
            return {(alert.run, alert.rule) for alert in system.events("alert") if alert.plugin == "anomaly"}

        wait_for(lambda: {"trainer", "board"} <= {run for run, _ in alerts()}, 60.0)
    wait_for(lambda: len(steps("trainer")) >= 89 and len(steps("board")) >= 89, 60.0)
    assert steps("trainer") == list(range(1, 90))
    assert steps("board") == list(range(1, 90))
    assert ("trainer", "loss_spike") in alerts()
    assert any("finite" in rule or "nan" in rule for run, rule in alerts() if run == "board")
    assert [event.run for event in system.events("run_started")].count("trainer") == 1


TRAINING = """
import sys
import torch
from transformers import Trainer, TrainingArguments


class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.calls = torch.nn.Linear(4, 1), 0

    def forward(self, x, labels=None):
        self.calls += 1
        answer = self.layer(x).squeeze(-1)
        loss = ((answer - labels) ** 2).mean()
        return {"loss": loss * (1000.0 if self.calls == 70 else 1.0), "logits": answer}


torch.manual_seed(0)
data = [{"x": torch.randn(4), "labels": torch.tensor(1.0)} for _ in range(64)]
settings = dict(max_steps=100, logging_steps=1, save_steps=25, learning_rate=1e-3, report_to=["tensorboard"], use_cpu=True)
Trainer(model=Tiny(), args=TrainingArguments(output_dir=sys.argv[1], **settings), train_dataset=data).train()
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_plain_trainer_is_watched_by_all_that_it_writes(system, tmp_path):
    """Its checkpoints' trainer_state.json, its TensorBoard folder and its output: three runs, one story, one spike each."""
    script, out, printed = tmp_path / "train.py", tmp_path / "out", tmp_path / "train.out"
    script.write_text(TRAINING)
    files = [
        {"path": str(out), "format": "trainer_state", "run": "state"},
        {"path": str(out / "runs"), "format": "tensorboard", "run": "board"},
        {"path": str(printed), "run": "lines"},
    ]
    system.up("anomaly", "follow", follow={"files": files, "interval": 0.2}, anomaly={"figures": {"enabled": False}})
    with printed.open("wb") as stream:
        subprocess.run([sys.executable, str(script), str(out)], stdout=stream, stderr=subprocess.STDOUT, check=True, timeout=200)

    def spikes():
        return {alert.run: alert.step for alert in system.events("alert") if alert.rule == "loss_spike"}

    wait_for(lambda: len(spikes()) == 3 and len(system.events("run_ended")) >= 2, 60.0)
    steps = {run: [event.step for event in system.events("step") if event.run == run] for run in ("state", "board", "lines")}
    assert steps["state"] == steps["board"] == list(range(1, 101))
    assert len(steps["lines"]) == 100
    assert (spikes()["state"], spikes()["board"]) == (70, 70)
    # The trainer_state.json of a checkpoint is written before the end: only the other two say that it is complete.
    assert {event.run: event.outcome for event in system.events("run_ended")} == {"board": "completed", "lines": "completed"}
