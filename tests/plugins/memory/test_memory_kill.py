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
ACT = {"dry_run": False, "save_seconds": 1.0}
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


def trained(limit, out, seed, root, leak):
    """One training to its end; gives its exit code and the journal's events of its run, in order."""
    run = f"leaky-{seed}"
    command = [sys.executable, str(LEAKY), run, f"{leak:g}", "0.1" if leak else "0.02", str(seed), str(limit), str(out / run)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}, stderr=subprocess.DEVNULL)
    try:
        code = process.wait(110)
    finally:
        process.kill()
    with Client(root=root) as client:

        def ended():
            events = list(client.events(kinds=("alert", "run_ended"), runs=(run,)))
            return [
                event for event in events if (event.outcome == "completed" if event.kind == "run_ended" else event.rule == "memory_death")
            ]

        wait_for(ended, what="its end in the journal")
        return code, list(client.events(runs=(run,)))


def check(leak, code, events, verdict):
    """All that must hold of one leaking training; gives the numbers."""
    steps = [event for event in events if event.kind == "step"]
    alerts = [event for event in events if event.kind == "alert"]
    leaks = [alert for alert in alerts if alert.rule == "memory_leak" and alert.state != "cleared"]
    ended = steps[-1].step
    assert code == (-9 if verdict == "kernel" else 1)
    assert leaks[0].step <= 50
    half = [alert for alert in leaks if alert.step <= ended / 2][-1]
    assert half.evidence["mb_per_step"] == pytest.approx(leak, rel=0.2)
    assert half.evidence["end_step"] == pytest.approx(ended, rel=0.2)
    saved = [event for event in events if event.kind == "checkpoint" and event.state == "complete"]
    assert saved, "no checkpoint before the kill"
    assert (Path(saved[-1].path) / "complete").exists()
    death = next(alert for alert in alerts if alert.rule == "memory_death")
    assert (death.severity, death.evidence["verdict"]) == ("critical", verdict)
    assert verdict != "kernel" or len(death.evidence["last_minute"]) > 5
    return {"named": leaks[0].step, "half_error": round(half.evidence["end_step"] / ended - 1, 3), "ended": ended, "saved": saved[-1].step}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "seeds", [FAST, pytest.param(SEEDS, marks=[pytest.mark.slow, pytest.mark.timeout(3_000)])], ids=["2 runs", "20 runs"]
)
def test_a_leaking_training_is_named_predicted_saved_and_its_kill_explained(limited, system, tmp_path, seeds):
    """Under a real limit with a real kill: within 50 steps, within 20 % at half way, with a complete checkpoint, each time."""
    limited()  # may skip: before anything is started
    system.up("memory", memory=ACT)
    for seed in seeds:
        leak = (1.5, 2.0, 2.5, 3.0)[seed % 4]
        code, events = trained(limited(), tmp_path, seed, system.root, leak)
        log.info("seed %d: %s", seed, check(leak, code, events, "kernel"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_training_under_an_address_space_limit_is_saved_as_well(system, tmp_path):
    """Where no control group can be made (ulimit -v): it is refused memory instead of killed, and says so itself."""
    system.up("memory", memory=ACT)
    code, events = trained("rlimit:260000000", tmp_path, 1, system.root, 2.0)
    log.info("address space: %s", check(2.0, code, events, "python"))


@pytest.mark.timeout(300)
def test_a_real_training_without_a_leak_raises_no_alert(limited, system, tmp_path):
    """Eight evaluations and four saves in 400 steps under a limit of which they need the half."""
    limited()
    system.up("memory", memory=ACT)
    code, events = trained(limited(), tmp_path, 1, system.root, 0)
    assert code == 0
    assert [event.step for event in events if event.kind == "step"] == list(range(1, 401))
    assert [(event.rule, event.message) for event in events if event.kind == "alert"] == []
    assert [event for event in events if event.kind == "command"] == []
    looks = [event for event in system.events("system") if any(process.run == "leaky-1" for process in event.processes)]
    assert len(looks) > 20
    assert max(event.processes[0].rss for event in looks) - min(event.processes[0].rss for event in looks) > 50 << 20
