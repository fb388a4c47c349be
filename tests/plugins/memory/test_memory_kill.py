"""A real process with a planted leak in a control group, a real broker and plugin: named, predicted, saved, and explained afterwards."""

import logging
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.hosting.system import System
from tests.support import wait_for
from trainbus.bus.client import Client
from trainbus.plugins.memory.readers.cgroups import locate
from trainbus.plugins.memory.readers.text import UnknownError

log = logging.getLogger(__name__)
LIMIT = 320 << 20
LEAKY = Path(__file__).with_name("leaky.py")
FAST = range(2)
SEEDS = range(20)


@pytest.fixture
def limited():
    """Makes control groups with a memory limit below this process's own; skips where that is not allowed."""
    made = []

    def make(limit=LIMIT):
        try:
            place = locate(Path("/proc"), "self")
        except UnknownError as error:
            pytest.skip(str(error))
        group = place.directory / f"trainbus-test-{uuid.uuid4().hex[:8]}"
        try:
            group.mkdir()
            made.append(group)
            (group / ("memory.max" if place.version == 2 else "memory.limit_in_bytes")).write_text(str(limit))
        except OSError as error:
            pytest.skip(f"no control group can be made here: {error}")
        return group

    yield make
    for group in made:
        wait_for(lambda group=group: not (group / "cgroup.procs").read_text(), what="the group's processes to end")
        group.rmdir()


@pytest.fixture
def system(trainbus_home, monkeypatch):
    started = System(trainbus_home)
    yield started
    started.close()


def trained(group, out, seed, root):
    """One leaking training to its end; gives its exit code and the journal's events of its run, in order."""
    run = f"leaky-{seed}"
    leak, seconds = (1.5, 2.0, 2.5, 3.0)[seed % 4], 0.1
    command = [sys.executable, str(LEAKY), run, str(leak), str(seconds), str(seed), str(group), str(out / run)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}, stderr=subprocess.PIPE)
    code = process.wait(110)
    process.stderr.close()
    with Client(root=root) as client:

        def death():
            return [event for event in client.events(kinds=("alert",), runs=(run,)) if event.rule == "memory_death"]

        wait_for(death, what="the alert about its death")
        return leak, code, list(client.events(runs=(run,)))


def check(leak, code, events):
    """All that must hold of one killed training; gives the numbers."""
    steps = [event for event in events if event.kind == "step"]
    leaks = [event for event in events if event.kind == "alert" and event.rule == "memory_leak" and event.state != "cleared"]
    killed = steps[-1].step
    assert code == -9
    named = leaks[0]
    assert named.step <= 50
    assert named.evidence["mb_per_step"] == pytest.approx(leak, rel=0.25)
    half = [event for event in leaks if event.step <= killed / 2][-1]
    assert half.evidence["end_step"] == pytest.approx(killed, rel=0.2)
    saved = [event for event in events if event.kind == "checkpoint" and event.state == "complete"]
    assert saved, "no checkpoint before the kill"
    assert (Path(saved[-1].path) / "complete").exists()
    (death,) = [event for event in events if event.kind == "alert" and event.rule == "memory_death"]
    assert (death.severity, death.evidence["verdict"]) == ("critical", "kernel")
    assert len(death.evidence["last_minute"]) > 5
    return {"named": named.step, "half_error": half.evidence["end_step"] / killed - 1, "killed": killed, "saved": saved[-1].step}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "seeds", [FAST, pytest.param(SEEDS, marks=[pytest.mark.slow, pytest.mark.timeout(3_000)])], ids=["2 runs", "20 runs"]
)
def test_a_leaking_training_is_named_predicted_saved_and_its_kill_explained(limited, system, tmp_path, seeds):
    """Under a real limit with a real kill: within 50 steps, within 20 % at half way, with a complete checkpoint, each time."""
    limited()  # may skip: before anything is started
    system.up("memory", memory={"dry_run": False, "save_seconds": 1.0})
    for seed in seeds:
        numbers = check(*trained(limited(), tmp_path, seed, system.root))
        log.info("seed %d: %s", seed, numbers)
