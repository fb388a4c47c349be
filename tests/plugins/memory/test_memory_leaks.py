"""Leaks, creep, ends and disks on whole made-up trainings: named in time, with a step that comes true, and never without cause."""

import pytest

from tests.plugins.memory.story import HOST, START, Story
from trainbus.bus.events import Checkpoint, Disk, Gpu, GpuProcess, Memory, Process, RunStarted, Step, System
from trainbus.plugins.memory.config import MemoryConfig
from trainbus.plugins.memory.watch import Watch

GB = 10**9


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))])
@pytest.mark.parametrize(
    "trouble",
    [
        {},
        {"noise": 200},
        {"drift": 1.0},
        {"limit": 6_000},
        {"limit": 4_500, "noise": 100},
        {"eval_first_leaves": 600, "limit": 8_000},
        {"warm": 1_500, "warm_steps": 150},
        {"total_steps": False},
        {"eval_seconds": 240, "eval_peak": 2_500, "limit": 6_500},
    ],
    ids=lambda trouble: " ".join(trouble) or "plain",
)
def test_a_training_without_a_leak_raises_no_alert_in_5000_steps(trouble, seed):
    """With evaluations, saves, warming up, noise and drift, in a container and on a host."""
    story = Story(seed, **trouble).run()
    assert story.at == 5_000
    assert [(step, alert.rule, alert.message) for step, alert in story.alerts if alert.rule != "group_memory"] == []


@pytest.mark.parametrize("seed", range(20))
def test_a_leak_is_named_within_50_steps_and_its_end_comes_true(seed):
    """MB a step within 20 %, the step of the kill within 20 % at half way and within the interval's reach."""
    leak = (4, 6, 8, 12)[seed % 4]
    story = Story(seed, warm=40, warm_steps=8, base=1_000, limit=2_000, leak=leak, noise=10, eval_every=10_000).run()
    leaks = story.said("memory_leak")
    assert leaks[0][0] <= 50
    assert leaks[0][1].state == "raised"
    evidence = [alert.evidence for step, alert in leaks if step <= story.killed / 2][-1]
    assert evidence["mb_per_step"] == pytest.approx(leak, rel=0.2)
    assert evidence["end_step"] == pytest.approx(story.killed, rel=0.2)
    assert evidence["limit"] == "group /g"
    assert {alert.id for _, alert in leaks} == {leaks[0][1].id}


def test_a_leak_that_begins_late_is_named_after_it_began():
    """And the worker that grows is named, not the training's own process."""
    story = Story(3, leak=8, leak_from=1_200, limit=5_000, worker=True, eval_every=700).run()
    ((step, alert), *_) = story.said("memory_leak")
    assert 1_200 < step <= 1_200 + 120
    assert alert.evidence["grows"] == "dataloader (process 8)"
    assert "dataloader (process 8)" in alert.message


def test_a_leak_that_ends_is_cleared():
    """Somebody emptied the list."""

    class Mended(Story):
        def value(self):
            self.leak = 8 if self.at < 150 else 0
            self.left = 8 * 150 if self.at >= 150 else 0
            return super().value()

    story = Mended(1, steps=900, limit=5_500, warm=0, eval_every=10_000).run()
    assert [alert.state for _, alert in story.said("memory_leak")][-1] == "cleared"
    assert story.killed is None


def test_a_leak_that_outlasts_the_training_is_nobodys_trouble():
    """The training is over before."""
    assert Story(0, steps=1_500, leak=0.5, total=16_000).run().said("memory_leak") == []


def test_evaluations_that_leave_memory_behind_are_a_creep_and_no_leak():
    """A staircase: no slope between two of them shows it."""
    story = Story(2, steps=3_000, eval_every=250, eval_leaves=200, eval_first_leaves=0, limit=6_000).run()
    ((_, alert), *_) = story.said("memory_creep")
    assert alert.evidence["value"] == pytest.approx(200 * 1e6 / 1e6, rel=0.2)
    assert alert.evidence["evaluations_left"] > 0
    assert story.said("memory_leak") == []


def test_replaying_the_same_events_gives_the_same_alerts():
    """Findings are a function of the events; what is asked for live is no finding."""
    story = Story(5, leak=8, limit=4_000, steps=400).run()
    watch, again = Watch(HOST, MemoryConfig()), []
    for event in story.seen:
        if isinstance(event, System):
            again += watch.on_system(event)[0]
        else:
            getattr(watch, f"on_{event.kind}")(event)
    findings = [alert for _, alert in story.alerts if alert.rule != "memory_action"]
    assert again == findings
    assert findings


def watching(**config):
    watch = Watch(HOST, MemoryConfig(**config))
    watch.on_run_started(RunStarted(run="r", name="tuning", host=HOST, pid=7, time=START))
    return watch


def at(second):
    return START + int(second * 1e9)


def gpu_look(step, used, holds=None, total=80 * GB):
    processes = [GpuProcess(pid=7, run="r", memory=used if holds is None else holds)]
    gpus = [Gpu(index=0, memory_total=total, memory_used=used, processes=processes)]
    return System(host=HOST, time=at(step), processes=[Process(pid=7, run="r", rss=GB, anon=GB)], gpus=gpus)


def fed(watch, step, look):
    watch.on_step(Step(run="r", step=step, time=at(step), total_steps=10_000))
    return watch.on_system(look)[0]


def test_gpu_memory_that_rises_over_ten_looks_is_a_leak():
    """Nine are not enough; flat memory never is."""
    watch, alerts = watching(), []
    for step in range(1, 40):
        alerts += fed(watch, step, gpu_look(step, 40 * GB + step * GB // 2))
        if alerts:
            break
    (leak,) = [alert for alert in alerts if alert.rule == "gpu_leak"]
    assert 10 <= step <= 20
    assert leak.evidence["mb_per_step"] == pytest.approx(500, rel=0.01)
    assert leak.evidence["limit"] == "gpu0"
    assert leak.evidence["grows"] == "GPU 0"


@pytest.mark.parametrize(("low", "said"), [(14, 0), (15, 1), (40, 1)])
def test_a_gpu_that_is_filled_to_less_than_60_percent_over_15_steps_is_one_advice(low, said):
    """Fourteen low samples give none."""
    watch, alerts = watching(), []
    for step in range(1, 11):
        alerts += fed(watch, step, gpu_look(step, 60 * GB))
    for step in range(11, 11 + low):
        alerts += fed(watch, step, gpu_look(step, 40 * GB))
    alerts += fed(watch, 11 + low, gpu_look(11 + low, 60 * GB))
    advice = [alert for alert in alerts if alert.rule == "gpu_underused" and alert.state == "raised"]
    assert len(advice) == said
    assert all(alert.severity == "info" for alert in advice)


def host_look(second, used_gb, total_gb=64, disks=()):
    memory = Memory(total=total_gb * GB, used=int(used_gb * GB), available=int((total_gb - used_gb) * GB))
    return System(host=HOST, time=at(second), memory=memory, disks=list(disks))


def test_memory_that_somebody_else_fills_is_spoken_of_after_a_while():
    """Data preparation, another user: no training steps, no leak of ours; a short rise is none."""
    watch, alerts = Watch(HOST, MemoryConfig()), []
    for second in range(0, 40, 2):
        alerts += watch.on_system(host_look(second, 10 + second * 0.05))[0]
    assert alerts == []
    for second in range(40, 160, 2):
        alerts += watch.on_system(host_look(second, 10 + second * 0.05))[0]
    (alert,) = alerts
    assert (alert.rule, alert.severity) == ("memory_end", "warning")
    assert 500 < alert.evidence["value"] < 1_100


def test_a_disk_that_fills_is_forecast():
    """Linear growth over minutes; within the horizon."""
    watch, alerts = Watch(HOST, MemoryConfig()), []
    for second in range(0, 600, 5):
        disk = Disk(path="/out", total=100 * GB, free=50 * GB - second * 10**7)
        alerts += watch.on_system(host_look(second, 10, disks=[disk]))[0]
    (alert,) = alerts
    assert (alert.rule, alert.severity) == ("disk_end", "warning")
    assert alert.evidence["mb_per_second"] == pytest.approx(10, rel=0.05)


def test_a_disk_on_which_somebody_writes_for_a_minute_is_not_forecast_to_be_full_tomorrow():
    """Nor is an end told that is sixty times further away than the writing has been seen."""
    watch, alerts = Watch(HOST, MemoryConfig()), []
    for second in range(0, 300, 5):
        disk = Disk(path="/out", total=100 * GB, free=70 * GB - second * 10**6)
        alerts += watch.on_system(host_look(second, 10, disks=[disk]))[0]
    assert alerts == []


def test_a_checkpoint_that_will_not_fit_is_told_before_it_is_written():
    """Warning when one more fits, critical when none does, cleared when retention made room."""
    watch, alerts = watching(), []
    path = "/out/run/checkpoint-10"
    watch.on_checkpoint(Checkpoint(run="r", state="complete", step=10, path=path, host=HOST, bytes=10 * GB, time=at(1)))
    for second, free in ((10, 40), (20, 15), (30, 8), (40, 60)):
        look = host_look(
            second, 10, disks=[Disk(path="/", total=1_000 * GB, free=500 * GB), Disk(path="/out", total=100 * GB, free=free * GB)]
        )
        look.processes = [Process(pid=7, run="r", rss=GB)]
        alerts += [alert for alert in watch.on_system(look)[0] if alert.rule == "checkpoint_room"]
    assert [(alert.state, alert.severity) for alert in alerts] == [("raised", "warning"), ("updated", "critical"), ("cleared", "critical")]
    assert "does not fit" in alerts[1].message


def test_memory_that_ends_for_all_is_the_trouble_of_every_training_on_the_machine():
    """Two trainings, of which neither leaks: both are asked to save, each once."""
    watch, asked = Watch(HOST, MemoryConfig(dry_run=False)), []
    for number, run in enumerate(("a", "b")):
        watch.on_run_started(RunStarted(run=run, host=HOST, pid=7 + number, time=START))
    for second in range(0, 400, 2):
        look = host_look(second, 20 + second * 0.1)
        for number, run in enumerate(("a", "b")):
            watch.on_step(Step(run=run, step=second, time=at(second)))
            look.processes.append(Process(pid=7 + number, run=run, rss=GB, anon=GB))
        watch.on_system(look)
        asked += [(ask.run, ask.verb) for ask, _ in watch.act(look)]
    assert sorted(asked) == [("a", "free_caches"), ("a", "save"), ("b", "free_caches"), ("b", "save")]


def test_of_several_trainings_on_one_host_only_the_one_that_leaks_is_named():
    """Each has steps, memory and alerts of its own; both live under the same limit."""
    watch, alerts = watching(), []
    watch.on_run_started(RunStarted(run="s", name="other", host=HOST, pid=8, time=at(0)))
    for step in range(1, 61):
        look = host_look(step, 20)
        sizes = {"r": 2 * GB + step * 40 * 10**6, "s": 3 * GB}
        look.memory = Memory(total=16 * GB, used=sum(sizes.values()), available=16 * GB - sum(sizes.values()))
        look.processes = [Process(pid=7 if run == "r" else 8, run=run, rss=size, anon=size) for run, size in sizes.items()]
        for run in sizes:
            watch.on_step(Step(run=run, step=step, total_steps=5_000, time=at(step)))
        alerts += watch.on_system(look)[0]
    assert {(alert.rule, alert.run) for alert in alerts if alert.rule == "memory_leak"} == {("memory_leak", "r")}
