"""Commands that come while data and model are loaded: answered at once, and held to."""

from __future__ import annotations

import os
import threading

import pytest

from tests.support import wait_for
from trainbus.bus.events import Command
from trainbus.bus.run import init
from trainbus.errors import DataError
from trainbus.trainer_node import model
from trainbus.trainer_node.beforehand import Beforehand
from trainbus.trainer_node.config import TrainerConfig
from trainbus.trainer_node.job import run_job
from trainbus.trainer_node.part import Part


class Leader:
    """Commands by another way than a broker, and what was answered."""

    pid, announce = os.getpid(), True

    def __init__(self):
        self.waiting, self.answers = [], []

    def ask(self, verb, **arguments):
        self.waiting.append(Command(id=f"{verb}-{len(self.answers)}", verb=verb, arguments=arguments, requested_by="ann"))

    def commands(self):
        found, self.waiting = self.waiting, []
        return found

    def answered(self, result):
        self.answers.append((result.verb, result.state))


@pytest.fixture
def leader():
    """Nobody has asked for anything yet."""
    return Leader()


@pytest.fixture
def loading(monkeypatch):
    """Do something while the model is loaded, which then takes until that is over."""

    def during(act):
        original = model.build

        def build(config):
            act()
            return original(config)

        monkeypatch.setattr(model, "build", build)

    return during


@pytest.fixture
def train(tiny_base, questions, tmp_path, leader):
    """Train on 40 questions in 10 steps as a job of a continuous run."""

    def run():
        config = TrainerConfig(
            model=str(tiny_base), data=str(questions), output=str(tmp_path / "out"), method="full", batch_size=4, max_length=64
        )  # fmt: skip
        return run_job(config, part=Part(job="j", run="r-1"), leader=leader)

    return run


def test_a_pause_is_answered_while_the_model_is_loaded_and_no_step_is_made_before_resume(train, leader, loading, published):
    """The accelerator is loaded, the run waits in the phase paused before its first step."""

    def pause():
        leader.ask("pause")
        wait_for(lambda: leader.answers == [("pause", "accepted"), ("pause", "done")], 60.0)
        leader.ask("pause")
        wait_for(lambda: leader.answers[-1] == ("pause", "refused"), 60.0)
        threading.Thread(target=resume, daemon=True).start()

    def resume():
        wait_for(lambda: not leader.waiting and paused.is_set(), 60.0)
        leader.ask("resume")

    paused, looks = threading.Event(), []
    loading(pause)
    original = Leader.commands

    def commands(self):
        if threading.current_thread() is threading.main_thread():
            looks.append(len(self.answers))
            if len(looks) > 2:  # it has begun, and waits
                paused.set()
        return original(self)

    leader.commands = commands.__get__(leader)
    assert train().outcome == "completed"
    assert leader.answers[-2:] == [("resume", "accepted"), ("resume", "done")]
    begun = [phase.time for phase in published("phase") if (phase.name, phase.state) == ("paused", "ended")]
    steps = published("step")
    assert (len(begun), len(steps)) == (1, 10)
    assert begun[0] < steps[0].time


def test_a_stop_while_the_model_is_loaded_ends_the_job_before_its_first_step(train, leader, loading, published):
    """Nothing is saved, because nothing was learned; who asked for more is told that it is over."""

    def stop():
        leader.ask("stop")
        leader.ask("save")
        wait_for(lambda: ("stop", "accepted") in leader.answers and not leader.waiting, 60.0)

    loading(stop)
    summary = train()
    assert (summary.outcome, summary.reason, summary.steps) == ("stopped", "stop was asked for by ann", 0)
    assert leader.answers == [("stop", "accepted"), ("stop", "done"), ("save", "refused")]
    assert published("step") == []


def test_what_only_a_training_can_do_waits_for_it(train, leader, loading, published):
    """A learning rate and a save that were asked for while loading act at the first step."""

    def ask():
        leader.ask("set", learning_rate=1e-5)
        leader.ask("save")

    loading(ask)
    assert train().outcome == "completed"
    assert ("set", "done") in leader.answers
    assert ("save", "done") in leader.answers
    assert published("checkpoint")[0].step == 1


def test_commands_are_answered_when_loading_fails(leader):
    """Nobody waits for an answer that will never come."""

    def load(run):
        with Beforehand(run) as beforehand:
            leader.ask("evaluate")
            wait_for(lambda: beforehand.stats().waiting == 1, 60.0)
            raise DataError("broken", hint="")

    with init("r", leader=leader) as run, pytest.raises(DataError):
        load(run)
    assert leader.answers == [("evaluate", "refused")]
