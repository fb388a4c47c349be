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

    def told():
        return sorted(event.step for event in system.events("checkpoint") if event.state == "deleted")

    wait_for(lambda: len(told()) >= 3, 60, what="the last one told")
    assert told() == [100, 200, 300]
    assert {event.name.rpartition("/")[2] for event in system.events("metric")} >= {"free", "checkpoints", "trash"}


def test_a_page_pins_and_restores_through_the_bus_also_when_the_run_has_ended(system, tmp_path):
    """It reads events, asks by commands, and never touches the disk."""
    out = tmp_path / "out"
    system.up("retention", retention=SETTINGS)
    with trainbus.init("train", run="train-1") as run:
        paths = {step: make(out, step, marker=False) for step in (1, 2, 3)}
        digests = {step: seal(path, run="train-1", name="train", step=step).digest for step, path in paths.items()}
        ids = {step: run.checkpoint(path, step=step, digest=digests[step]) for step, path in paths.items()}
        wait_for(lambda: here(out) == ["checkpoint-2", "checkpoint-3"], 60, what="the oldest gone")

    def fates():
        told = [fate for event in system.events("retention") for fate in event.checkpoints]
        return {fate.step: fate for fate in told}

    def answered(verb, step):
        with Client(root=system.root) as client:
            number = client.command("train-1", verb, requested_by="ann", reason="look", plugin="retention", checkpoint=ids[step])
        return wait_for(lambda: [one for one in system.events("command_result") if one.command == number], 60, what=verb)[0].state

    wait_for(lambda: fates().get(1) and fates()[1].state == "trashed", 60, what="told of the trash")
    assert answered("pin", 2) == "done"
    assert answered("restore", 1) == "done"
    assert here(out) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    wait_for(lambda: {step: fate.pinned for step, fate in fates().items()}[1] == "pinned by ann: look", 60, what="told of the pins")
    assert fates()[2].pinned == "pinned by ann: look"
    assert answered("pin", 1) == "done"
    assert answered("unpin", 1) == "done"
    wait_for(lambda: here(out) == ["checkpoint-2", "checkpoint-3"], 60, what="let go again")
