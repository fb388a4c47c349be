"""Fragmentation: what a training's allocators tell, beside what is seen of it."""

import pytest

from trainbus.bus.events import Gpu, GpuProcess, Memory, Process, RunStarted, Step, System
from trainbus.plugins.memory.config import MemoryConfig
from trainbus.plugins.memory.watch import Watch

GB = 10**9
START = 1_700_000_000 * GB
HEAP = {"heap_used": 2.0 * GB, "heap_free": 3.0 * GB}
GPU = {"gpu_peak": 30.0 * GB, "gpu_reserved": 60.0 * GB}


class Told:
    """A training whose allocators tell something at each step."""

    def __init__(self):
        self.watch = Watch("h", MemoryConfig())
        self.watch.on_run_started(RunStarted(run="r", name="tuning", host="h", pid=7, time=START))
        self.step = 0
        self.alerts = []

    def steps(self, count, told, *, anon=5 * GB, available=60 * GB, gpu_used=55 * GB):
        for _ in range(count):
            self.step += 1
            time = START + self.step * GB
            self.watch.on_step(Step(run="r", step=self.step, metrics=dict(told), time=time))
            gpu = Gpu(index=0, memory_total=80 * GB, memory_used=gpu_used, processes=[GpuProcess(pid=7, run="r", memory=gpu_used)])
            look = System(
                host="h",
                time=time,
                memory=Memory(total=64 * GB, used=64 * GB - available, available=available),
                processes=[Process(pid=7, run="r", name="tuning", rss=anon, anon=anon)],
                gpus=[gpu],
            )
            self.alerts += [alert for alert in self.watch.on_system(look)[0] if alert.rule == "memory_fragmentation"]
        return [(alert.state, alert.severity, round(alert.evidence["value"])) for alert in self.alerts]


@pytest.mark.parametrize(("told", "share", "where"), [(HEAP, 60, "heap"), (GPU, 50, "GPU")], ids=["heap", "gpu"])
def test_memory_that_is_held_in_fragments_is_advice_with_its_share_and_cleared_when_it_is_used(told, share, where):
    """One alert an incident, however often it is told."""
    training = Told()
    assert training.steps(30, told) == [("raised", "info", share)]
    raised = training.alerts[0]
    assert (raised.run, raised.evidence["where"]) == ("r", where)
    assert raised.evidence["idle_bytes"] == (3 * GB if where == "heap" else 30 * GB)
    used = {"heap_used": 4.8 * GB, "heap_free": 0.2 * GB, "gpu_peak": 59.0 * GB, "gpu_reserved": 60.0 * GB}
    assert [state for state, _, _ in training.steps(5, used)] == ["raised", "cleared"]


def test_fragments_are_a_warning_where_memory_is_short():
    """There they are what ends the training early."""
    heap, gpu = Told(), Told()
    assert heap.steps(10, HEAP, available=10 * GB) == [("raised", "warning", 60)]
    assert gpu.steps(10, GPU, gpu_used=65 * GB) == [("raised", "warning", 50)]


@pytest.mark.parametrize(
    ("told", "anon"),
    [
        ({}, 5 * GB),
        ({"heap_used": 4.5 * GB, "heap_free": 3.0 * GB}, 5 * GB),
        ({"heap_used": 0.3 * GB, "heap_free": 0.4 * GB}, GB),
        ({"gpu_peak": 50.0 * GB, "gpu_reserved": 60.0 * GB}, 5 * GB),
        ({"heap_used": 2.0 * GB}, 5 * GB),
    ],
    ids=["nothing told", "free pages that were given back", "small", "what a cache needs", "half told"],
)
def test_what_is_no_fragmentation_is_not_said(told, anon):
    """What the heap calls free may be no memory at all: the resident size decides."""
    assert Told().steps(30, told, anon=anon) == []


def test_one_answer_alone_says_nothing():
    """After an evaluation much is idle for a moment."""
    training = Told()
    busy = {"heap_used": 4.9 * GB, "heap_free": 0.1 * GB}
    for _ in range(10):
        training.steps(1, HEAP)
        training.steps(1, busy)
    assert training.alerts == []
