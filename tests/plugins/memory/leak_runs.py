"""Runs of `leaky.py` under a real limit, and what must hold of them: for the tests, and for `benchmarks.memory_leaks`."""

import os
import subprocess
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import wait_for
from trainbus.bus.client import Client
from trainbus.machine.cgroups import locate

LIMIT, TORCH_LIMIT = 320 << 20, 640 << 20
LEAKS = (1.5, 2.0, 2.5, 3.0)
"""MB a step."""
LEAKY = Path(__file__).with_name("leaky.py")
ACT = {"dry_run": False, "save_seconds": 1.0}


@contextmanager
def control_group(limit):
    """A control group with a memory limit below this process's own; an OSError or UnknownError where that is not allowed."""
    place = locate(Path("/proc"), "self")
    group = place.directory / f"trainbus-test-{uuid.uuid4().hex[:8]}"
    group.mkdir()
    try:
        (group / ("memory.max" if place.version == 2 else "memory.limit_in_bytes")).write_text(str(limit))
        yield group
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text(), what="the group's processes to end")
        group.rmdir()


def trained(limit, out, seed, root, leak, *, kind="plain", steps=400):
    """One training to its end; gives its exit code and the journal's events of its run, in order."""
    run = f"leaky-{seed}"
    pause = "0.1" if leak else "0.02"
    command = [sys.executable, str(LEAKY), run, f"{leak:g}", pause, str(seed), str(limit), str(out / run), str(steps), kind]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "TRAINBUS_HOME": str(root)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        code = process.wait(110 + steps / 4)
    finally:
        process.kill()
        process.wait(180)
    with Client(root=root) as client:

        def ended():
            events = list(client.events(kinds=("alert", "run_ended"), runs=(run,)))
            return [
                event for event in events if (event.outcome == "completed" if event.kind == "run_ended" else event.rule == "memory_death")
            ]

        wait_for(ended, what="its end in the journal")
        return code, list(client.events(runs=(run,)))


def numbers(events):
    """What a leaking training's events say: where the leak was named, how wrong the end was at half way, where it ended, the last save."""
    ended = [event for event in events if event.kind == "step"][-1].step
    leaks = [event for event in events if event.kind == "alert" and event.rule == "memory_leak" and event.state != "cleared"]
    half = [alert for alert in leaks if alert.step <= ended / 2]
    last = leaks[-1:]
    saved = [
        event for event in events if event.kind == "checkpoint" and event.state == "complete" and (Path(event.path) / "complete").exists()
    ]
    return {
        "named": leaks[0].step if leaks else None,
        "mb_per_step": round(half[-1].evidence["mb_per_step"], 2) if half else None,
        "last_mb_per_step": round(last[0].evidence["mb_per_step"], 2) if last else None,
        "half_error": round(half[-1].evidence["end_step"] / ended - 1, 3) if half else None,
        "ended": ended,
        "saved": saved[-1].step if saved else None,
    }


def check(leak, code, events, verdict):
    """What must hold of one leaking training on any machine; gives the numbers."""
    found = numbers(events)
    assert code == (-9 if verdict == "kernel" else 1)
    assert found["named"] is not None, "the leak was never named"
    assert found["last_mb_per_step"] == pytest.approx(leak, rel=0.2)
    assert found["saved"] is not None, "no checkpoint before the kill"
    death = next(event for event in events if event.kind == "alert" and event.rule == "memory_death")
    assert (death.severity, death.evidence["verdict"]) == ("critical", verdict)
    assert verdict != "kernel" or len(death.evidence["last_minute"]) > 5
    return found


def check_figures(found, leak):
    """The promised figures: how early it is named, and how good the forecast at half way is. A busy machine looks too late."""
    assert found["named"] <= 50
    assert found["mb_per_step"] == pytest.approx(leak, rel=0.2)
    assert abs(found["half_error"]) <= 0.2
