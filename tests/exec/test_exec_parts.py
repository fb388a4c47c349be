"""The parts of `trainbus exec` by themselves: joining a run, keeping output, accounting, sorting what frameworks log."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import trainbus
from trainbus.bus import joining
from trainbus.bus.config import BusConfig
from trainbus.bus.joining import Entry, Ledger, join
from trainbus.launch.account import Account
from trainbus.launch.keeping import Lines
from trainbus.launch.signals import Ended
from trainbus.launch.verdict import judge
from trainbus.loggers.sorting import sort


@pytest.fixture
def supervised(tmp_path, monkeypatch):
    """As under a supervisor, which is this test."""
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setenv(joining.RUN_VARIABLE, "r")
    monkeypatch.setenv(joining.NAME_VARIABLE, "name")
    monkeypatch.setenv(joining.FOLDER_VARIABLE, str(folder))
    monkeypatch.setenv(joining.SUPERVISOR_VARIABLE, str(os.getpid()))
    return Ledger(folder)


def test_the_first_training_takes_the_run_and_later_ones_get_their_own(supervised):
    """Two trainings of one command never mix their steps."""
    assert [join().run for _ in range(3)] == ["r", "r-2", "r-3"]
    assert [(entry.state, entry.run) for entry in supervised.entries()] == [("opened", "r"), ("opened", "r-2"), ("opened", "r-3")]


def test_an_elastic_restart_goes_on_with_its_run(supervised, monkeypatch):
    """torchrun starts rank 0 again: another process of the same launcher."""
    supervised.add(Entry("opened", "r", os.getpid() + 1, os.getppid()))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    joined = join()
    assert (joined.run, joined.resumed) == ("r", True)


def test_other_ranks_share_the_run_and_open_none(supervised, monkeypatch):
    """Only rank 0 is the run."""
    monkeypatch.setenv("RANK", "1")
    assert join().run == "r"
    assert supervised.entries() == []


def test_without_a_supervisor_that_lives_a_run_is_a_run_like_any_other(supervised, monkeypatch, published):
    """On another machine, after the supervisor's death, or with a variable that is left over."""
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    gone.wait()
    monkeypatch.setenv(joining.SUPERVISOR_VARIABLE, str(gone.pid))
    assert join() is None
    monkeypatch.setenv(joining.SUPERVISOR_VARIABLE, str(os.getpid()))
    monkeypatch.setenv(joining.FOLDER_VARIABLE, "/nowhere/at/all")
    assert join() is None
    with trainbus.init("mine") as run:
        assert run.id.startswith("mine-")
    assert published("run_ended")[0].outcome == "completed"


def test_a_script_of_one_s_own_with_init_joins_and_leaves_the_end_to_the_supervisor(supervised, published):
    """Its outcome and step stand in the ledger; a run with an id of its own stays by itself."""
    run = trainbus.init("mine")
    assert (run.id, run.name) == ("r", "name")
    run.step(4, loss=1.0)
    run.close("failed", reason="ValueError: broken")
    left = supervised.entries()[-1]
    assert (left.state, left.run, left.outcome, left.reason, left.step) == ("left", "r", "failed", "ValueError: broken", 4)
    assert published("run_ended") == []
    assert trainbus.init("mine", run="other").close() is False
    assert [event.run for event in published("run_ended")] == ["other"]


def account(supervised, root):
    return Account("r", "name", ["sh"], os.getpid(), root, supervised, BusConfig())


def test_each_run_of_a_command_is_ended_once(supervised, trainbus_home, published):
    """The last one with the command's exit code, those before as their processes left them."""
    told = account(supervised, trainbus_home)
    supervised.add(Entry("opened", "r", 1, 1))
    supervised.add(Entry("left", "r", 1, 1, "completed", "", 10))
    assert told.opened()
    supervised.add(Entry("opened", "r-2", 2, 1))
    supervised.add(Entry("opened", "r-3", 3, 1))
    supervised.add(Entry("left", "r-3", 3, 1, "failed", "ValueError: x", 5))
    assert told.opened()
    assert told.opened()
    ended = Ended(1, None)
    told.end(ended, judge(ended, ["ValueError: x"], None, []), ["ValueError: x"], trainbus_home / "log")
    found = {event.run: event for event in published("run_ended")}
    assert len(published("run_ended")) == 3
    assert (found["r"].outcome, found["r"].step, found["r"].exit_code) == ("completed", 10, None)
    assert (found["r-2"].outcome, found["r-2"].exit_code) == ("failed", None)
    assert (found["r-3"].outcome, found["r-3"].step, found["r-3"].exit_code) == ("failed", 5, 1)


def test_a_run_that_was_stopped_by_command_is_stopped_though_the_script_succeeds(supervised, trainbus_home, published):
    """What the training process says counts more than exit code 0."""
    told = account(supervised, trainbus_home)
    supervised.add(Entry("opened", "r", 1, 1))
    supervised.add(Entry("left", "r", 1, 1, "stopped", "enough", 10))
    ended = Ended(0, None)
    told.end(ended, judge(ended, [], None, []), [], trainbus_home / "log")
    (event,) = published("run_ended")
    assert (event.outcome, event.reason, event.exit_code) == ("stopped", "enough", 0)


def test_last_lines_are_without_colours_and_wiped_out_bars():
    """As a person would have seen them at the end."""
    lines = Lines()
    lines.feed(1, b"\x1b[31mred\x1b[0m\n 10%|#  |\r 20%|## |\r100%|###|\nhalf")
    lines.feed(2, b"an error\n")
    lines.close()
    assert list(lines.last) == ["red", "100%|###|", "an error", "half"]


def test_what_frameworks_log_is_sorted_by_what_it_is_of():
    """Training, evaluation, epoch; texts and arrays are left out."""
    import numpy
    import torch

    found = sort(
        {
            "train_loss": torch.tensor(float("nan")),
            "lr-AdamW": 0.1,
            "val_loss_epoch": numpy.float32(2.0),
            "test/accuracy": 1,
            "epoch": 3,
            "step": 9,
            "note": "text",
            "flag": True,
            "vector": torch.ones(3),
            "train_loss_epoch": 4.0,
        }
    )
    assert {name: str(float(value)) for name, value in found.training.items()} == {
        "loss": "nan", "learning_rate": "0.1", "step_": "9.0", "train_loss_epoch": "4.0",
    }  # fmt: skip
    assert {name: float(value) for name, value in found.evaluation.items()} == {"loss": 2.0, "accuracy": 1.0}
    assert found.epoch == 3.0
