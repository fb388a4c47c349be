"""The plugin on this very machine."""

import os
import socket
import subprocess
import sys
import time

import msgspec
import pytest

from tests.plugins.memory.story import HOST, Story
from tests.support import wait_for
from trainbus.bus.events import Checkpoint, Memory, RunEnded, RunStarted, System
from trainbus.plugins.memory.plugin import MemoryPlugin
from trainbus.testing.context import MemoryContext, PluginHarness

HERE = socket.gethostname()


@pytest.fixture
def start(tmp_path):
    started = []

    def make(context=None, **config):
        harness = PluginHarness(MemoryPlugin(), config=config, context=context or MemoryContext(directory=tmp_path))
        harness.start()
        started.append(harness)
        return harness

    yield make
    for harness in started:
        harness.stop()


def look(harness):
    harness.every()
    return harness.published[-1]


def test_a_look_tells_the_machine_and_what_it_does_not_know(start):
    """Everything is there or has a reason why not."""
    harness = start()
    assert 0 < harness.every() <= 2.0
    (event,) = harness.published
    assert event.host == HERE
    assert 0 < event.memory.available <= event.memory.total
    assert event.risk in ("low", "medium", "high")
    assert event.disks[0].path == str(harness.context.directory.parents[1])
    assert event.disks[0].inodes_free is None or event.disks[0].inodes_free > 0
    assert (event.cpus, len(event.load)) == (os.cpu_count(), 3)
    assert event.pressure is not None or "pressure" in event.unknown
    assert event.oom_kills is not None or "swap rate" in event.unknown
    assert event.gpus or "gpus" in event.unknown
    assert event.cpu_percent is None
    wait_for(lambda: look(harness).cpu_percent is not None)


def test_a_training_on_this_machine_is_watched_from_its_start_to_its_end(start):
    """And not one that works elsewhere."""
    harness = start()
    harness.feed(
        RunStarted(run="r", name="tuning", host=HERE, pid=os.getpid(), time=time.time_ns()),
        RunStarted(run="s", host="elsewhere", pid=os.getpid(), time=time.time_ns()),
    )
    (process,) = look(harness).processes
    assert (process.run, process.pid, process.name) == ("r", os.getpid(), "tuning")
    assert process.rss > 1 << 20
    harness.feed(RunEnded(run="r"))
    assert look(harness).processes == []


def test_a_training_that_died_without_a_word_is_forgotten(start):
    """Its number may soon be another's."""
    harness = start()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    harness.feed(RunStarted(run="r", host=HERE, pid=dead.pid, time=time.time_ns()))
    event = look(harness)
    assert (event.processes, event.gone) == ([], ["r"])
    (death,) = harness.feed(event)
    assert (death.rule, death.run, death.severity) == ("memory_death", "r", "info")
    assert look(harness).gone == []
    assert harness.context.state["watch"]["trainings"] == {}


def test_the_disk_of_a_checkpoint_on_this_machine_is_watched(start, tmp_path):
    """A path that is gone is unknown, with the reason."""
    harness = start()
    harness.feed(
        Checkpoint(run="r", path=str(tmp_path / "gone" / "checkpoint-1"), host=HERE),
        Checkpoint(run="r", path="/elsewhere/out/checkpoint-1", host="elsewhere"),
    )
    assert "No such file" in look(harness).unknown[f"disk {tmp_path / 'gone'}"]
    assert not any("elsewhere" in key for key in look(harness).unknown)


def test_an_alert_survives_a_restart_and_is_raised_once(start):
    """State and cursor are committed together; events of other machines are not judged here."""

    def used(percent, at, host=HERE):
        return System(host=host, time=at, memory=Memory(total=100, used=percent, available=100 - percent))

    first = start()
    assert [alert.state for alert in first.feed(used(75, 1), used(99, 2, host="elsewhere"))] == ["raised"]
    second = start(context=first.context)
    alerts = second.feed(used(76, 3), used(90, 4), used(10, 5))
    assert [(alert.id, alert.state) for alert in alerts] == [
        (f"host_memory:{HERE}:host:1", "updated"),
        (f"host_memory:{HERE}:host:1", "cleared"),
    ]


@pytest.fixture
def told(start, monkeypatch):
    """A story, told to the plugin as if it happened now."""
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)

    now = time.time_ns()

    def tell(harness, seen, until=None, late=0.0):
        shift = now - (until or seen[-1]).time - int(late * 1e9)
        before = len(harness.published)
        for event in seen:
            harness.feed(type(event)(**{**{name: getattr(event, name) for name in event.__struct_fields__}, "time": event.time + shift}))
        return harness.published[before:]

    return tell


def leaking():
    return Story(1, warm=40, warm_steps=8, base=1_000, limit=2_000, leak=8, noise=10, steps=100, total_steps=False).run()


def rules(alerts):
    return [(alert.rule, alert.state, alert.step) for alert in alerts if alert.rule != "memory_action"]


def test_a_restart_in_the_middle_of_a_leak_changes_no_finding(start, told):
    """What is kept is enough: points, phases, open alerts."""
    story = leaking()
    whole = told(start(gpus=False), story.seen)
    half = len(story.seen) // 2
    first = start(gpus=False, context=MemoryContext())
    alerts = told(first, story.seen[:half], until=story.seen[-1])
    first.context.state = msgspec.msgpack.decode(msgspec.msgpack.encode(first.context.state))
    second = start(gpus=False, context=first.context)
    alerts += told(second, story.seen[half:])
    assert rules(alerts) == rules(whole)
    assert ("memory_leak", "raised") in {(rule, state) for rule, state, _ in rules(whole)}


def test_a_training_is_asked_only_when_it_is_no_dry_run(start, told):
    """By commands with a reason; the dry run says the same in an alert."""
    story = leaking()
    dry = start(gpus=False, context=MemoryContext())
    told(dry, story.seen)
    assert dry.context.commands == []
    assert "Would ask" in next(alert.message for alert in dry.published if alert.rule == "memory_action")
    acting = start(gpus=False, context=MemoryContext(), dry_run=False)
    told(acting, story.seen)
    assert [(command.run, command.verb) for command in acting.context.commands] == [("r", "free_caches"), ("r", "save")]
    assert "a save takes" in acting.context.commands[1].reason


def test_nothing_is_asked_for_what_is_long_past(start, told):
    """A plugin that catches up with the journal gives the findings, and no commands."""
    harness = start(gpus=False, context=MemoryContext(), dry_run=False)
    published = told(harness, leaking().seen, late=3_600)
    assert harness.context.commands == []
    assert "memory_leak" in {alert.rule for alert in published}
    assert "memory_action" not in {alert.rule for alert in published}


def test_what_was_kept_by_another_version_is_let_go(start):
    """Instead of ending the plugin again and again."""
    context = MemoryContext()
    context.state["watch"] = {"alerts": "many"}
    harness = start(gpus=False, context=context)
    assert harness.every() > 0
