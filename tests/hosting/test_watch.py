"""Trainings that know nothing of trainbus, watched by their files, judged by the anomaly plugin: the whole system."""

import json
import math
import os
import signal

from tests.support import wait_for
from trainbus.plugins.sinks import tfevents


def losses(spike_at, until=90):
    return [(step, 9.0 if step == spike_at else 1.0 + 0.001 * (step % 7)) for step in range(1, until)]


def test_a_spike_in_a_trainer_state_and_nan_in_a_tensorboard_folder_are_alerts(system, tmp_path):
    """No line of the trainings is changed; the watch plugin is killed in between and publishes nothing twice."""
    trainer, board = tmp_path / "gsm8k", tmp_path / "board"
    board.mkdir()
    files = [{"path": str(trainer), "run": "trainer"}, {"path": str(board), "run": "board"}]
    system.up("anomaly", "watch", watch={"files": files, "interval": 0.05}, anomaly={"figures": {"enabled": False}})

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
        status = system.wait_for_state("watch", "running")
        os.kill(status.pid, signal.SIGKILL)
        save(60)
        append(stream, 41, 89)
        system.wait_for_state("watch", "running", not_pid=status.pid)
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
