"""The plugin in a running system: `trainbus up`, a run that saves checkpoints, kill -9 of the plugin's process."""

import os
import signal

import pytest

import trainbus
from tests.hosting.system import System
from tests.plugins.retention.support import here, make
from tests.support import wait_for
from trainbus.bus.client import Client
from trainbus.bus.events import Eval
from trainbus.trainer_node.checkpoints import seal

SETTINGS = {
    "dry_run": False,
    "keep_newest": 2,
    "keep_best": [{"metric": "accuracy", "direction": "max"}],
    "min_age": 0,
    "interval": 0.1,
    "trash_grace": 3600,
}


@pytest.fixture
def system(trainbus_home):
    made = System(trainbus_home)
    yield made
    made.close()


def test_the_right_checkpoints_stay_while_a_run_saves_and_the_plugin_is_killed(system, tmp_path):
    """A lease holds, a late metric brings back, and nothing is told twice."""
    out = tmp_path / "out"
    system.up("retention", retention=SETTINGS)
    ids = {}
    with trainbus.init("train", run="train-1") as run:

        def save(step):
            path = make(out, step, marker=False)
            digest = seal(path, run="train-1", name="train", step=step).digest
            ids[step] = run.checkpoint(path, step=step, digest=digest)

        for step in (100, 200, 300):
            save(step)
        wait_for(lambda: here(out) == ["checkpoint-200", "checkpoint-300"], 60, what="the oldest gone")
        with Client(root=system.root) as client, client.lease(ids[200], "examiner", "shared", 60.0, "being evaluated"):
            os.kill(system.plugin("retention").pid, signal.SIGKILL)
            for step in (400, 500):
                save(step)
            wait_for(lambda: here(out) == ["checkpoint-200", "checkpoint-400", "checkpoint-500"], 60, what="all but the leased one gone")
            run.publish(Eval(run="train-1", step=100, checkpoint=ids[100], metrics={"accuracy": 0.9}))
            kept = ["checkpoint-100", "checkpoint-200", "checkpoint-400", "checkpoint-500"]
            wait_for(lambda: here(out) == kept, 60, what="the best back")
        wait_for(lambda: here(out) == ["checkpoint-100", "checkpoint-400", "checkpoint-500"], 60, what="the lease over")
    told = [(event.step, event.state) for event in system.events("checkpoint") if event.state == "deleted"]
    assert sorted(told) == [(100, "deleted"), (200, "deleted"), (300, "deleted")]
    assert {event.name.rpartition("/")[2] for event in system.events("metric")} >= {"free", "checkpoints", "trash"}
