"""A continuous training, file after file: nothing resets, nothing is shown twice, and an interruption changes nothing."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import Trainer

from trainbus.trainer_node import checkpoints
from trainbus.trainer_node.callback import TrainbusCallback
from trainbus.trainer_node.config import TrainerConfig
from trainbus.trainer_node.job import run_job
from trainbus.trainer_node.part import Part, presentation_order


@pytest.fixture
def files(tmp_path):
    """Two files of twelve and nine questions, each with a number of its own."""

    def make(name, first, count):
        path = tmp_path / name
        path.write_text("".join(json.dumps({"question": f"what is {i}?", "answer": str(i)}) + "\n" for i in range(first, first + count)))
        return path

    return make("one.jsonl", 1000, 12), make("two.jsonl", 2000, 9)


@pytest.fixture
def train(tiny_base, tmp_path):
    """Train on a file as a job of the run ``inbox``; output by name."""

    def run(file, output="out", **given):
        defaults = {
            "model": str(tiny_base), "output": str(tmp_path / output), "name": "inbox", "method": "full", "save_steps": 100,
            "batch_size": 2, "learning_rate": 1e-3, "warmup": 2, "max_length": 64,
        }  # fmt: skip
        config = TrainerConfig(data=str(file), **(defaults | given))
        return run_job(config, part=Part(job=file.stem, run=f"inbox-{output}", unfinished=("one", "two")))

    return run


@pytest.fixture
def shown(monkeypatch):
    """The token ids of every example that the model was trained on, in order."""
    seen = []
    original = Trainer.training_step

    def training_step(self, model, inputs, *rest):
        rows = zip(inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), strict=True)
        seen.extend(tuple(token for token, there in zip(*row, strict=True) if there) for row in rows)
        return original(self, model, inputs, *rest)

    monkeypatch.setattr(Trainer, "training_step", training_step)
    return seen


@pytest.fixture
def interrupt(monkeypatch):
    """Ask the training to stop after a step, as SIGTERM would, or to skip, as a command would."""

    def arrange(step, *, skip=False):
        original = TrainbusCallback.on_step_end

        def on_step_end(self, args, state, control, **rest):
            if state.global_step == step:
                self._control.skipping = skip
                self.request_stop("asked")
            original(self, args, state, control, **rest)

        monkeypatch.setattr(TrainbusCallback, "on_step_end", on_step_end)
        return lambda: monkeypatch.setattr(TrainbusCallback, "on_step_end", original)

    return arrange


def weights(output):
    from safetensors.torch import load_file

    return load_file(checkpoints.listed(output)[-1] / "model.safetensors")


def test_the_second_file_goes_on_where_the_first_ended(train, files, published, shown, tmp_path):
    """Steps don't reset, the learning rate doesn't decay, every example is shown once, and the marker says so."""
    one, two = train(files[0]), train(files[1])
    assert (one.outcome, one.total_steps, one.file_examples) == ("completed", 6, 12)
    assert (two.outcome, two.resumed_step, two.total_steps, two.file_examples) == ("completed", 6, 11, 9)
    steps = [step for step in published("step") if step.run == "inbox-out"]
    assert [step.step for step in steps] == list(range(1, 12))
    assert [step.metrics["learning_rate"] for step in steps[2:]] == pytest.approx([1e-3] * 9)
    assert len(shown) == len(set(shown)) == 21
    assert checkpoints.read_marker(tmp_path / "out" / "checkpoint-11").positions == {"one": 12, "two": 9}


def test_an_interrupted_file_shows_each_example_once_and_ends_with_the_same_weights(train, files, published, shown, interrupt, tmp_path):
    """To 1e-6, step by step, as if nothing had happened."""
    undo = interrupt(4)
    first = train(files[0])
    undo()
    assert (first.outcome, first.skipped) == ("stopped", False)
    second = train(files[0])
    assert (second.outcome, second.resumed_step, second.total_steps) == ("completed", 4, 6)
    assert len(shown) == len(set(shown)) == 12
    train(files[0], "whole")
    losses = {run: [s.metrics["loss"] for s in published("step") if s.run == run] for run in ("inbox-out", "inbox-whole")}
    assert losses["inbox-out"] == pytest.approx(losses["inbox-whole"], abs=1e-6)
    whole = weights(tmp_path / "whole")
    assert all(torch.allclose(tensor, whole[name], atol=1e-6) for name, tensor in weights(tmp_path / "out").items())


def test_a_skipped_file_goes_on_later_with_what_it_had_not_shown(train, files, shown, interrupt, tmp_path):
    """Its position travels in the checkpoints of the file that came before it."""
    undo = interrupt(2, skip=True)
    assert train(files[0]).skipped
    undo()
    assert train(files[1]).outcome == "completed"
    assert checkpoints.read_marker(tmp_path / "out" / "checkpoint-7").positions == {"one": 4, "two": 9}
    rest = train(files[0])
    assert (rest.resumed_step, rest.total_steps) == (7, 11)
    assert len(shown) == len(set(shown)) == 21


def test_a_file_whose_end_was_saved_but_never_told_is_not_trained_on_again(train, files, shown):
    """kill -9 between the last checkpoint and the word that the file is done."""
    train(files[0])
    again = train(files[0])
    assert (again.outcome, again.steps, again.total_steps) == ("completed", 0, 6)
    assert len(shown) == 12


def test_each_epoch_has_an_order_of_its_own_and_half_an_epoch_is_half_of_it():
    """The same for the same seed and job, another for another."""
    order = presentation_order(10, 2.5, 1, "a")
    assert len(order) == 25
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10))
    assert order[:10] != order[10:20]
    assert order == presentation_order(10, 2.5, 1, "a") != presentation_order(10, 2.5, 1, "b")
