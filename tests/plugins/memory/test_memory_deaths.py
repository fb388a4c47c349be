"""After a death: counters, log lines, signals and errors of recorded deaths, each with what it shows."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.plugins.memory.story import HOST
from trainbus.bus.events import Memory, MemoryGroup, Process, RunEnded, RunStarted, Step, System, Worker
from trainbus.launch.signals import Ended
from trainbus.launch.verdict import Verdict, crash_alert
from trainbus.plugins.memory.config import MemoryConfig
from trainbus.plugins.memory.deaths import MAX_POINTS, last_minute
from trainbus.plugins.memory.plugin import MemoryPlugin
from trainbus.plugins.memory.watch import Watch
from trainbus.testing.context import MemoryContext, PluginHarness

LINE = "Memory cgroup out of memory: Killed process {} (python3) total-vm:9kB, anon-rss:1024kB, file-rss:0kB, shmem-rss:0kB, UID:0"


def look(second, *, kills=0, group=0, gone=False, kernel=(), counted=True):
    """A look at a machine whose training has process 7, with a worker 8."""
    workers = [Worker(pid=8, role="dataloader")]
    return System(
        host=HOST,
        time=second * 10**9,
        memory=Memory(total=100, available=50),
        oom_kills=kills if counted else None,
        groups=[MemoryGroup(path="/g", limit=90, used=10 + second, oom_kills=group)] if counted else [],
        processes=[] if gone else [Process(pid=7, run="r", rss=second, group="/g", workers=workers)],
        gone=["r"] if gone else [],
        kernel=list(kernel),
    )


def died(*looks, ended=None, ended_first=None):
    """The death alerts of a training that these looks saw."""
    watch = Watch(HOST, MemoryConfig())
    watch.on_run_started(RunStarted(run="r", name="tuning", host=HOST, pid=7, time=1))
    watch.on_step(Step(run="r", step=41, time=2))
    alerts = []
    for event in looks:
        if event.gone and ended_first is not None:
            alerts += watch.on_run_ended(ended_first)
        alerts += [one.alert for one in watch.on_system(event)[1]]
    if ended is not None:
        alerts += watch.on_run_ended(ended)
    return alerts


@pytest.mark.parametrize(
    ("last", "verdict", "words"),
    [
        (look(9, gone=True, kills=1, group=1), "kernel", "oom_kill of /g rose from 0 to 1"),
        (look(9, gone=True, kills=1), "kernel", "oom_kill of h rose from 0 to 1"),
        (
            look(9, gone=True, kills=1, kernel=[LINE.format(7)]),
            "kernel",
            "the kernel's log names process 7 (python3): its control group's limit",
        ),
        (look(9, gone=True, kills=1, kernel=[LINE.format(8)]), "worker", "the kernel's log names process 8"),
        (look(9, gone=True, kills=1, kernel=[LINE.format(666)]), "other", "oom_kill of h rose"),
        (look(9, gone=True), "other", "no counter of kills rose"),
    ],
    ids=["its group's counter", "the host's counter", "the log", "the log, a worker", "the log, somebody else", "nothing"],
)
def test_what_the_kernel_counted_and_wrote_tells_whether_it_killed(last, verdict, words):
    """A counter tells that somebody was killed, the log who."""
    (alert,) = died(look(7), look(8), last)
    assert (alert.evidence["verdict"], alert.step, alert.rule) == (verdict, 41, "memory_death")
    assert words in alert.message
    assert alert.severity == ("info" if verdict == "other" else "critical")


@pytest.mark.parametrize("crash_first", [True, False])
def test_one_incident_is_one_critical_alert_whoever_sees_it_first(crash_first):
    """`trainbus exec` tells of the crash; the death beside it is information that names it, until the run begins again."""
    watch = Watch(HOST, MemoryConfig())
    begun = RunStarted(run="r", name="tuning", host=HOST, pid=7, time=1)
    crash = crash_alert("r", Verdict("host_memory", "failed", "killed"), Ended(None, 9), [], step=41, log="x.log")
    killed = look(9, gone=True, kills=1, group=1)
    watch.on_run_started(begun)
    watch.on_system(look(7))
    told = []
    for event in (crash, killed) if crash_first else (killed, crash):
        told += watch.on_alert(event) if event is crash else [one.alert for one in watch.on_system(event)[1]]
    told += watch.on_run_ended(RunEnded(run="r", outcome="failed", signal=9, reason="killed", time=10**10))
    assert watch.on_alert(crash) == []
    assert [alert.severity for alert in told] == (["info"] * 2 if crash_first else ["critical", "info", "info"])
    assert {alert.id for alert in told} == {told[0].id}
    assert told[-1].evidence["incident"] == crash.id
    assert told[-1].evidence["verdict"] == "kernel"
    watch.on_run_started(begun)
    watch.on_system(look(10))
    (again,) = watch.on_system(look(11, gone=True, kills=2, group=2))[1]
    assert (again.alert.severity, "incident" in again.alert.evidence) == ("critical", False)


def test_where_the_kernel_counts_nothing_it_is_unknown_and_not_denied():
    """Before Linux 4.13, or without the right to look."""
    (alert,) = died(look(8, counted=False), look(9, counted=False, gone=True))
    assert alert.evidence["verdict"] == "unknown"
    assert "can't be told" in alert.message


def test_a_group_that_was_killed_before_is_no_proof():
    """Only what rose since the last look at which the training lived."""
    (alert,) = died(look(8, kills=5, group=3), look(9, kills=5, group=3, gone=True))
    assert alert.evidence["verdict"] == "other"


def test_a_training_that_ended_by_itself_has_no_death():
    """Completed, stopped, or gone in silence elsewhere."""
    watch = Watch(HOST, MemoryConfig())
    watch.on_run_started(RunStarted(run="r", host=HOST, pid=7, time=1))
    assert watch.on_run_ended(RunEnded(run="r", outcome="completed")) == []
    assert watch.on_system(look(9, gone=True))[1] == []
    assert watch.on_run_ended(RunEnded(run="s", outcome="lost")) == []


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB", "gpu"),
        ("RuntimeError: CUDA error: out of memory", "gpu"),
        ("MemoryError", "python"),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes",
            "python",
        ),
        ("OSError: [Errno 12] Cannot allocate memory", "python"),
        ("RuntimeError: DataLoader worker (pid 4242) is killed by signal: Killed. ", "worker"),
    ],
)
def test_an_error_for_want_of_memory_is_recognised_by_its_words(reason, verdict):
    """As Python, PyTorch and CUDA say it."""
    (alert, later) = died(look(8), look(9, gone=True), ended_first=RunEnded(run="r", outcome="failed", reason=reason, time=8 * 10**9))
    assert (alert.evidence["verdict"], alert.state, alert.severity) == (verdict, "raised", "critical")
    assert (later.evidence["verdict"], later.state, later.id) == (verdict, "updated", alert.id)


def test_an_error_about_something_else_is_none_of_our_business():
    """Nothing is said of memory."""
    end = RunEnded(run="r", outcome="failed", reason="ValueError: wrong shape", time=8 * 10**9)
    assert died(look(8), ended=end) == []


@pytest.mark.parametrize("end", [{"signal": 9}, {"exit_code": 137}, {"exit_code": -9}])
def test_the_signal_of_the_end_is_added_to_what_was_known(end):
    """Whoever waited for the process tells it later."""
    first, later = died(look(8), look(9, gone=True, kills=1, group=1), ended=RunEnded(run="r", outcome="lost", time=10**10, **end))
    assert (later.id, later.state, later.evidence["verdict"]) == (first.id, "updated", "kernel")
    assert "it ended by SIGKILL" in later.message


def test_the_last_minute_of_memory_is_thinned_out_and_holds_nothing_older():
    """Of this host and this run."""
    history = [look(second) for second in range(200)]
    for tenth in range(1_000):
        event = look(200)
        event.time = 200 * 10**9 + tenth * 10**7
        history.append(event)
    points = last_minute(history, "r", HOST, 205 * 10**9)
    assert len(points) <= MAX_POINTS
    assert -60 <= points[0]["seconds"] < -50
    assert points[-1]["seconds"] <= 0
    assert points[0]["group_limit"] == 90
    assert last_minute(history, "r", "elsewhere", 205 * 10**9) == []


def test_a_death_comes_with_the_last_minute_from_the_journal(tmp_path):
    """A real process that is killed by hand: the plugin says that it was not the kernel, with its memory until then."""
    here = socket.gethostname()
    harness = PluginHarness(MemoryPlugin(), config={"gpus": False}, context=MemoryContext(directory=tmp_path / "plugins" / "memory"))
    harness.start()
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    harness.feed(RunStarted(run="r", name="tuning", host=here, pid=process.pid, time=time.time_ns()))

    def take():
        harness.every()
        event = harness.published[-1]
        event.time = time.time_ns()
        return harness.feed(event)

    for _ in range(3):
        assert take() == []
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdin.close()
    (alert,) = take()
    harness.stop()
    assert (alert.rule, alert.evidence["verdict"]) == ("memory_death", "other")
    sizes = [point["rss"] for point in alert.evidence["last_minute"]]
    assert len(sizes) == 4
    assert all(sizes[:3])
    assert sizes[3] is None
