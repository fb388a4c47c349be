"""The course of the learning rate: all of transformers' schedules, and a decay that somebody asks for."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from trainbus.errors import ConfigError
from trainbus.trainer_node import schedule
from trainbus.trainer_node.callback import TrainbusCallback
from trainbus.trainer_node.config import FOLLOWS_METRICS, Resume, Scheduler, TrainerConfig
from trainbus.trainer_node.job import run_job


class Maker:
    """As much of a Trainer as makes a schedule: warm-up of four steps, then constant."""

    def __init__(self):
        from transformers import get_constant_schedule_with_warmup

        self.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
        self.create_scheduler = lambda: get_constant_schedule_with_warmup(self.optimizer, 4)

    def rates(self, scheduler, steps):
        found = []
        for _ in range(steps):
            found.append(self.optimizer.param_groups[0]["lr"])
            self.optimizer.step()
            scheduler.step()
        return found


def test_a_decay_falls_in_a_line_to_nothing_and_can_be_taken_back():
    """It begins where it is asked for; without it the course is as transformers has it."""
    maker = Maker()
    schedule.make_decayable(maker)
    scheduler = maker.create_scheduler()
    assert maker.rates(scheduler, 6) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.4])
    assert schedule.decay(scheduler, 4) == 0
    assert maker.rates(scheduler, 3) == pytest.approx([0.4, 0.3, 0.2])
    assert schedule.decay(scheduler, 2) == 4
    assert maker.rates(scheduler, 4)[1:] == pytest.approx([0.2, 0.0, 0.0])
    schedule.end_decay(scheduler, maker.optimizer)
    assert maker.rates(scheduler, 2) == pytest.approx([0.4, 0.4])


def test_a_decay_goes_on_when_the_training_is_resumed(tmp_path):
    """The state that torch keeps of a schedule holds it, in values that are read without pickle."""
    maker = Maker()
    schedule.make_decayable(maker)
    scheduler = maker.create_scheduler()
    maker.rates(scheduler, 6)
    schedule.decay(scheduler, 4)
    maker.rates(scheduler, 1)
    torch.save(scheduler.state_dict(), tmp_path / "scheduler.pt")
    rest = maker.rates(scheduler, 4)
    again = Maker()
    schedule.make_decayable(again)
    resumed = again.create_scheduler()
    resumed.load_state_dict(torch.load(tmp_path / "scheduler.pt", weights_only=True))
    again.optimizer.load_state_dict({**again.optimizer.state_dict()})
    assert [course.decay_steps for course in schedule.courses(resumed)] == [4]
    assert again.rates(resumed, 4)[1:] == pytest.approx(rest[1:])


@pytest.fixture
def config(tiny_base, questions, tmp_path):
    """Six steps; keywords override."""

    def make(**given):
        defaults = {
            "model": str(tiny_base), "data": str(questions), "output": str(tmp_path / "out"), "method": "lora", "lora_r": 2,
            "max_steps": 6, "batch_size": 1, "learning_rate": 1e-3, "warmup": 2, "max_length": 64, "eval_samples": 0,
        }  # fmt: skip
        return TrainerConfig(**(defaults | given))

    return make


OPTIONS = {
    "warmup_stable_decay": {"num_decay_steps": 2},
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
}


def test_every_schedule_of_transformers_is_known():
    """No name of theirs is missing here, and none is made up."""
    from transformers import SchedulerType

    assert {*get_args(Scheduler)} - {"auto"} == {one.value for one in SchedulerType}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", get_args(Scheduler))
def test_every_schedule_trains(config, published, name):
    """Each warms up or begins at the peak, and ends completed."""
    evaluated = {"eval_fraction": 0.1, "eval_steps": 2} if name in FOLLOWS_METRICS else {}
    summary = run_job(config(scheduler=name, scheduler_options=OPTIONS.get(name, {}), max_steps=4, **evaluated))
    rates = [step.metrics["learning_rate"] for step in published("step")]
    assert (summary.outcome, len(rates)) == ("completed", 4)
    assert max(rates) <= 1e-3


def test_a_schedule_that_cannot_be_is_refused_in_words(config):
    """Before anything is loaded, or with what transformers has against its options."""
    with pytest.raises(ConfigError, match="follows the evaluations"):
        run_job(config(scheduler="greedy"))
    with pytest.raises(ConfigError, match="no_such_option") as caught:
        run_job(config(scheduler="cosine_with_min_lr", scheduler_options={"no_such_option": 1}))
    assert caught.value.hint


def test_the_command_decay_steps_lets_the_rate_fall_and_a_resumed_training_goes_on_with_it(config, published, monkeypatch):
    """Asked for after step 3; setting a learning rate ends it."""
    original, asked = TrainbusCallback.on_step_end, {3: ("decay_steps", 4), 7: ("learning_rate", 5e-4)}

    def on_step_end(self, args, state, control, **rest):
        if state.global_step in asked:
            name, value = asked[state.global_step]
            if name == "learning_rate":
                self._steering.set_learning_rate(value)
            else:
                assert name in self._steering.intervals()
                assert self._steering.set_interval(name, value) == 0
        original(self, args, state, control, **rest)

    monkeypatch.setattr(TrainbusCallback, "on_step_end", on_step_end)
    options = {"scheduler": "constant_with_warmup", "warmup": 1}
    run_job(config(max_steps=5, **options))
    run_job(config(max_steps=9, **options), resume=Resume(wanted=True))
    rates = [step.metrics["learning_rate"] for step in published("step")]
    assert rates == pytest.approx([0.0, 1e-3, 1e-3, 1e-3, 7.5e-4, 5e-4, 2.5e-4, 5e-4, 5e-4])
