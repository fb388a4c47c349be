"""`trainbus status` shows the memory of the machines that a memory plugin watches."""

from __future__ import annotations

import json
import time

import pytest

import trainbus
from tests.support import wait_for
from trainbus.bus.client import Client
from trainbus.bus.events import Alert, Disk, Gpu, Memory, MemoryGroup, Process, System
from trainbus.bus.publisher import Publisher
from trainbus.cli import app

GIB = 1 << 30


@pytest.fixture
def watched(broker):
    """Two looks at one machine and one at another, an open alert and a cleared one."""
    publisher = Publisher("", name="plugin:memory", root=broker)
    old = System(host="one", memory=Memory(total=64 * GIB, used=1 * GIB, available=63 * GIB), risk="low", reason="old")
    new = System(
        host="one",
        memory=Memory(total=64 * GIB, used=60 * GIB, available=4 * GIB),
        swap=Memory(total=8 * GIB, used=2 * GIB, in_rate=1024.0, out_rate=0.0),
        groups=[MemoryGroup(path="/pod", limit=32 * GIB, used=30 * GIB, oom_kills=2)],
        processes=[Process(pid=7, run="tuning-1", rss=29 * GIB, processes=5)],
        gpus=[Gpu(index=0, name="H100", memory_total=80 * GIB, memory_used=70 * GIB, utilization=97.0, temperature=61.0), Gpu(index=1)],
        disks=[Disk(path="/out", total=100 * GIB, free=40 * GIB)],
        risk="high",
        reason="94 % of the host memory in use, critical from 85 %",
    )
    unknown = System(host="two", unknown={"memory": "no permission"})
    for event in (old, new, unknown):
        event.time = time.time_ns()
        publisher.publish(event)
    for name, state in (("a", "raised"), ("b", "raised"), ("b", "cleared")):
        publisher.publish(Alert(id=name, rule="memory_leak", state=state, message=f"leak {name}", plugin="memory", severity="critical"))
    assert publisher.flush(20)
    publisher.close()


def test_memory_is_shown_for_each_machine_training_and_gpu(watched, capsys):
    """The newest look of each; what is not known is a dash and no zero; open alerts in words."""
    capsys.readouterr()
    assert app.run(["status"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "60.0 GiB",
        "risk high: 94 %",
        "/pod",
        "2 killed",
        "tuning-1",
        "4 more processes",
        "97 %, 61 °C",
        "/out",
        "risk unknown",
        "leak a",
    ):
        assert text in shown
    assert "leak b" not in shown
    assert "old" not in shown


def test_memory_for_programs_is_the_newest_look_of_each_machine(watched, capsys):
    """Bytes, with what is not known and why."""
    capsys.readouterr()
    assert app.run(["status", "--json"]) == 0
    memory = json.loads(capsys.readouterr().out)["memory"]
    one, two = memory["hosts"]
    assert (one["host"], one["memory"]["available"], one["risk"]) == ("one", 4 * GIB, "high")
    assert two["unknown"] == {"memory": "no permission"}
    assert [alert["id"] for alert in memory["alerts"]] == ["a"]


def test_after_a_death_it_says_whether_the_kernel_killed_until_the_run_is_back(watched, broker, capsys):
    """The last three, each run's newest; for programs too."""
    publisher = Publisher("", name="plugin:memory", root=broker)
    for number in range(5):
        message = f"The process of tuning-{number} is gone. The kernel killed it for want of memory: oom_kill rose from 0 to 1."
        evidence = {"verdict": "kernel", "proof": ["oom_kill rose from 0 to 1"]}
        for state in ("raised", "updated"):
            publisher.publish(
                Alert(
                    id=f"death{number}",
                    rule="memory_death",
                    run=f"tuning-{number}",
                    state=state,
                    message=message,
                    plugin="memory",
                    severity="critical",
                    evidence=evidence,
                )
            )
    assert publisher.flush(20)
    publisher.close()
    with trainbus.init("tuning", run="tuning-4", root=broker):
        wait_for(lambda: "run_started" in {event.kind for event in events(broker)}, what="the run's second beginning")
        capsys.readouterr()
        assert app.run(["status"]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert app.run(["status", "--json"]) == 0
        deaths = json.loads(capsys.readouterr().out)["memory"]["deaths"]
    assert [number for number in range(5) if f"The process of tuning-{number} is gone. The kernel killed it" in shown] == [1, 2, 3]
    assert [(death["run"], death["evidence"]["verdict"]) for death in deaths] == [(f"tuning-{number}", "kernel") for number in (1, 2, 3)]


def events(root):
    with Client(root=root) as client:
        return list(client.events())


def test_without_a_memory_plugin_nothing_is_shown(broker, capsys):
    """No empty table."""
    assert app.run(["status"]) == 0
    assert "in use" not in capsys.readouterr().out
