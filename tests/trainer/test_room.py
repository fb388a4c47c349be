"""A full disk makes a training wait before it saves, says so, and costs nothing: on a real disk of a few megabytes."""

from __future__ import annotations

import os

import pytest

from tests.broker.broker_process import fill, small_disk
from trainbus.bus.events import Command
from trainbus.trainer_node import checkpoints
from trainbus.trainer_node.config import TrainerConfig
from trainbus.trainer_node.job import run_job
from trainbus.trainer_node.observer import Silent
from trainbus.trainer_node.part import Part
from trainbus.trainer_node.room import Room, is_disk_full

MEGABYTES = 40


class Watcher(Silent):
    """Fills the disk when a phase begins, and acts when training waits for room."""

    def __init__(self, fill, when_waiting, at="train"):
        self.fill = fill
        self.at = at
        self.when_waiting = when_waiting
        self.waited = 0

    def phase(self, name):
        if name == self.at and self.fill is not None:
            self.fill, begin = None, self.fill
            begin()
        if name == "no_room":
            self.waited += 1
            self.when_waiting()


class Leader:
    """Commands by another way than a broker."""

    pid, announce = os.getpid(), True

    def __init__(self):
        self.waiting, self.results = [], []

    def commands(self):
        found, self.waiting = self.waiting, []
        return found

    def answered(self, result):
        self.results.append((result.verb, result.state))


@pytest.fixture
def disk(tmp_path):
    """A file system of its own."""
    with small_disk(tmp_path / "disk", MEGABYTES) as folder:
        yield folder


@pytest.fixture
def train(tiny_base, questions, disk):
    """Train on 40 questions in 10 steps, saving in the middle and at the end, onto the small disk."""

    def run(observer, leader=None):
        config = TrainerConfig(
            model=str(tiny_base), data=str(questions), output=str(disk / "out"), method="full", batch_size=4, save_steps=5, max_length=64,
            free_disk=1, warmup=2,
        )  # fmt: skip
        return run_job(config, part=Part(job="j", run="r-1"), observer=observer, leader=leader)

    return run


def test_a_disk_without_room_is_waited_for_and_the_training_then_goes_on(train, disk, published):
    """An alert is raised and cleared, the phase says why it waits, and both checkpoints are whole."""
    ballast = disk / "ballast"
    watcher = Watcher(lambda: fill(ballast), ballast.unlink)
    summary = train(watcher)
    assert (summary.outcome, summary.steps, watcher.waited) == ("completed", 10, 1)
    assert [checkpoints.step_of(path) for path in checkpoints.listed(disk / "out") if not checkpoints.faults(path)] == [5, 10]
    alerts = [(alert.state, alert.step) for alert in published("alert") if alert.rule == "no_room"]
    assert alerts == [("raised", 5), ("cleared", 5)]
    told = [phase.detail for phase in published("phase") if phase.name == "no_room" and phase.detail]
    assert "are free, and a checkpoint needs" in told[0]


def test_a_save_that_runs_out_of_room_half_way_is_made_again(train, disk):
    """Somebody else fills the disk after it was looked at: what the save left is removed, and it is made once there is room."""
    ballast = disk / "ballast"
    watcher = Watcher(lambda: fill(ballast), ballast.unlink, at="save")
    summary = train(watcher)
    assert (summary.outcome, summary.steps, watcher.waited) == ("completed", 10, 1)
    assert [checkpoints.step_of(path) for path in checkpoints.listed(disk / "out") if not checkpoints.faults(path)] == [5, 10]


def test_a_stop_ends_a_training_that_waits_for_room_without_a_checkpoint(train, disk):
    """Nobody has to wait for the disk; nothing that is no checkpoint is left over."""
    ballast = disk / "ballast"
    leader = Leader()
    watcher = Watcher(lambda: fill(ballast), lambda: leader.waiting.append(Command(id="s", verb="stop", reason="enough")))
    summary = train(watcher, leader)
    assert (summary.outcome, summary.reason) == ("stopped", "enough")
    assert leader.results == [("stop", "accepted"), ("stop", "done")]
    assert checkpoints.listed(disk / "out") == []


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(28, "No space left on device"), True),
        (OSError(122, "Disk quota exceeded"), True),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"), True),
        (RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"), True),
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (OSError(13, "Permission denied"), False),
        (RuntimeError("shapes cannot be multiplied"), False),
    ],
)
def test_a_full_disk_is_known_by_what_libraries_say_of_it(error, full):
    """Also where it is only the cause of what was raised."""
    assert is_disk_full(error) is full
    outer = ValueError("saving failed")
    outer.__cause__ = error
    assert is_disk_full(outer) is full


def test_what_is_needed_is_measured_on_the_newest_checkpoint(tmp_path):
    """Before there is one, an estimate has to do."""
    room = Room(tmp_path / "out", 0, lambda: 7)
    assert room.stats().needed == 7
    (tmp_path / "out" / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "out" / "checkpoint-3" / "weights").write_bytes(bytes(1000))
    checkpoints.seal(tmp_path / "out" / "checkpoint-3", run="r", name="r", step=3)
    assert room.stats().needed == 1000
    assert room.lacking() == ""
    assert "is full" in Room(tmp_path / "out", 1 << 40).lacking()
