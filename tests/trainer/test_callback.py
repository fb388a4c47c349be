"""What a Trainer does reaches the bus: raw losses at their step, phases, evaluations, whole checkpoints; and commands steer it."""

from __future__ import annotations

import math

import pytest
import torch
import transformers

import trainbus
from trainbus.bus.events import Command
from trainbus.trainer_node import data, tokens
from trainbus.trainer_node.callback import attach
from trainbus.trainer_node.checkpoints import faults, read_marker
from trainbus.trainer_node.model import SMALL_QWEN3, from_config

from .conftest import SHAPE


class Logged(transformers.TrainerCallback):
    """Keeps what Trainer logs."""

    def __init__(self):
        self.rows = []

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in logs:
            self.rows.append((state.global_step, logs["loss"], logs["grad_norm"], logs["learning_rate"]))


class At(transformers.TrainerCallback):
    """Runs a function at the end of a step, before the trainbus callback sees that step."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_step_begin(self, args, state, control, **_):
        if state.global_step + 1 == self.step:
            self.act()


@pytest.fixture
def make_trainer(tmp_path, tiny_base, questions):
    """A Trainer on the tiny data; options are TrainingArguments."""

    def make(*callbacks, evaluates=False, **options):
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_base)
        torch.manual_seed(0)
        dataset = tokens.tokenize(data.load_file(questions).examples, tokenizer, 64)
        defaults = {"max_steps": 6, "per_device_train_batch_size": 2, "logging_steps": 1, "save_strategy": "no", "learning_rate": 1e-3}
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / "out"),
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            remove_unused_columns=False,
            **(defaults | options),
        )
        trainer = transformers.Trainer(
            model=from_config({**SMALL_QWEN3, **SHAPE}, tokenizer),
            args=arguments,
            train_dataset=dataset,
            eval_dataset=dataset if evaluates else None,
            data_collator=tokens.Collator(tokenizer.pad_token_id),
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        return trainer

    return make


def ask(run, verb, **arguments):
    """Give a run a command as its publisher would."""
    run._commands.append(Command(id=f"{verb}-1", verb=verb, arguments=arguments, requested_by="ann"))


@pytest.mark.parametrize("accumulation", [1, 3])
def test_each_step_has_the_loss_norm_and_rate_that_trainer_itself_computes(make_trainer, published, accumulation):
    """With logging at every step, the bus and Trainer's own log agree, also with gradient accumulation."""
    logged = Logged()
    trainer = make_trainer(logged, gradient_accumulation_steps=accumulation, warmup_steps=3)
    with trainbus.init("t") as run:
        attach(trainer, run)
        trainer.train()
    steps = published("step")
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    for step, (number, loss, norm, rate) in zip(steps, logged.rows, strict=True):
        assert step.step == number
        assert step.metrics["loss"] == pytest.approx(loss, abs=1e-6)
        assert step.metrics["grad_norm"] == pytest.approx(norm, abs=1e-6)
        assert step.metrics["learning_rate"] == pytest.approx(rate, abs=1e-12)
        assert step.metrics["tokens_per_second"] > 0
    assert steps[-1].examples == 6 * 2 * accumulation
    assert steps[-1].total_steps == 6
    assert 0 < steps[0].epoch < steps[1].epoch
    assert steps[-1].tokens > steps[-1].examples


def test_now_and_then_a_step_tells_what_the_allocators_hold(make_trainer, published):
    """When it is due; the other steps are spared."""
    trainer = make_trainer()
    with trainbus.init("t") as run:
        callback = attach(trainer, run)
        callback._meter.allocators.due = math.inf
        trainer.add_callback(At(3, lambda: setattr(callback._meter.allocators, "due", 0.0)))
        trainer.train()
    if "heap_free" not in callback._meter.allocators.read():
        pytest.skip("this C library does not tell")
    told = [step.step for step in published("step") if "heap_used" in step.metrics]
    assert told[:1] == [3]
    assert callback.stats().errors == 0


def test_a_nan_loss_is_seen_at_its_step_although_trainer_hides_it(make_trainer, published):
    """logging_nan_inf_filter replaces NaN in what Trainer logs; the bus has the raw value, at the step at which it happens."""
    logged = Logged()
    trainer = make_trainer(logged)
    original = trainer.compute_loss
    trainer.compute_loss = lambda *args, **kwargs: original(*args, **kwargs) * (math.nan if trainer.state.global_step == 3 else 1.0)
    assert trainer.args.logging_nan_inf_filter
    with trainbus.init("t") as run:
        attach(trainer, run)
        trainer.train()
    losses = {step.step: step.metrics["loss"] for step in published("step")}
    assert [step for step, loss in losses.items() if math.isnan(loss)] == [4, 5, 6]  # the weights are ruined from step 4 on
    assert all(math.isfinite(loss) for _, loss, *_ in logged.rows), "Trainer's own log hides it"


def test_steps_are_published_whatever_logging_steps_says(make_trainer, published):
    """Trainer logs nothing here, and the bus has every step."""
    trainer = make_trainer(logging_steps=500)
    with trainbus.init("t") as run:
        attach(trainer, run)
        trainer.train()
    assert len(published("step")) == 6


def test_losses_are_handed_over_as_tensors_without_asking_the_device(make_trainer, monkeypatch):
    """Nothing in the callback turns a tensor into a number: on an accelerator that would wait for it."""
    trainer = make_trainer(gradient_accumulation_steps=2)
    given = []
    with trainbus.init("t") as run:
        monkeypatch.setattr(run, "step", lambda step, **values: given.append(values))
        attach(trainer, run)
        trainer.train()
    assert all(isinstance(values[name], torch.Tensor) and values[name].dim() == 0 for values in given for name in ("loss", "grad_norm"))
    assert not any(values["loss"].requires_grad for values in given)


def test_checkpoints_are_announced_writing_and_then_complete_with_a_digest(make_trainer, published, tmp_path):
    """Complete comes after the marker; its metrics are those of the same step."""
    trainer = make_trainer(evaluates=True, save_strategy="steps", save_steps=3, eval_strategy="steps", eval_steps=3)
    with trainbus.init("t") as run:
        attach(trainer, run, name="t")
        trainer.train()
    told = published("checkpoint")
    assert sorted((event.step, event.state) for event in told) == [(3, "complete"), (3, "writing"), (6, "complete"), (6, "writing")]
    losses = {event.step: event.metrics["loss"] for event in published("eval")}
    for event in told:
        if event.state == "complete":
            path = tmp_path / "out" / f"checkpoint-{event.step}"
            assert event.path == str(path)
            assert faults(path, contents=True) == []
            assert (event.id, event.digest) == (read_marker(path).id, read_marker(path).digest)
            assert event.metrics["eval_loss"] == losses[event.step]
            assert math.isfinite(event.metrics["loss"])
    phases = [(event.name, event.state) for event in published("phase")]
    assert phases[0] == ("train", "started")
    assert phases[-1] == ("train", "ended")
    assert phases.count(("evaluate", "ended")) == phases.count(("save", "ended")) == 2


def test_stop_saves_and_ends_and_says_so(make_trainer, published, tmp_path):
    """The training ends after the step at which the command was seen, with a whole checkpoint."""
    with trainbus.init("t") as run:
        trainer = make_trainer(At(3, lambda: ask(run, "stop")))
        callback = attach(trainer, run)
        trainer.train()
        assert callback.stopped == "stop was asked for by ann"
    assert [step.step for step in published("step")] == [1, 2, 3]
    assert faults(tmp_path / "out" / "checkpoint-3") == []
    results = [(event.verb, event.state) for event in published("command_result")]
    assert results == [("stop", "accepted"), ("stop", "done")]
    assert published("command_result")[-1].result["step"] == 3


def test_save_is_done_when_the_checkpoint_is_whole(make_trainer, published):
    """The answer names the checkpoint that was asked for."""
    with trainbus.init("t") as run:
        trainer = make_trainer(At(2, lambda: ask(run, "save")))
        attach(trainer, run)
        trainer.train()
    complete = next(event for event in published("checkpoint") if event.state == "complete")
    accepted, done = published("command_result")
    assert (accepted.state, done.state, complete.step) == ("accepted", "done", 2)
    assert done.result == {"checkpoint": complete.id, "path": complete.path}


def test_evaluate_answers_with_the_metrics(make_trainer, published):
    """An evaluation on request is an eval event and a result."""
    with trainbus.init("t") as run:
        trainer = make_trainer(At(2, lambda: ask(run, "evaluate")), evaluates=True)
        attach(trainer, run)
        trainer.train()
    (measured,) = published("eval")
    assert measured.step == 2
    assert measured.duration > 0
    assert set(measured.metrics) == {"loss"}
    assert published("command_result")[-1].result == {"loss": measured.metrics["loss"]}


def test_a_learning_rate_that_is_set_holds_from_the_next_step_and_scales_the_schedule(make_trainer, published):
    """A linear schedule goes on in proportion; the answer tells the value before."""
    with trainbus.init("t") as run:
        trainer = make_trainer(
            At(2, lambda: ask(run, "set", learning_rate=0.01, save_steps=50)), lr_scheduler_type="linear", save_strategy="steps"
        )
        attach(trainer, run)
        trainer.train()
    rates = [step.metrics["learning_rate"] for step in published("step")]
    assert rates[:2] == pytest.approx([1e-3, 1e-3 * 5 / 6])
    assert rates[2:] == pytest.approx([0.01, 0.01 * 3 / 4, 0.01 * 2 / 4, 0.01 * 1 / 4])
    done = published("command_result")[-1]
    assert done.result["before"]["learning_rate"] == pytest.approx(1e-3 * 4 / 6)
    assert trainer.state.save_steps == 50


def test_a_paused_run_saves_and_evaluates_on_request_and_goes_on_when_resumed(make_trainer, published, monkeypatch):
    """While it waits no step is made, and what is asked for is carried out at once."""
    asked = iter(["save", "evaluate", "resume"])
    with trainbus.init("t") as run:
        trainer = make_trainer(At(2, lambda: ask(run, "pause")), evaluates=True)
        attach(trainer, run)
        with monkeypatch.context() as patch:
            patch.setattr("trainbus.trainer_node.callback.time.sleep", lambda _: ask(run, next(asked)))
            trainer.train()
    assert [step.step for step in published("step")] == [1, 2, 3, 4, 5, 6]
    results = [(event.verb, event.state) for event in published("command_result")]
    for verb in ("pause", "save", "evaluate", "resume"):
        assert results.count((verb, "accepted")) == results.count((verb, "done")) == 1
    paused = next(event for event in published("phase") if event.name == "paused")
    assert all(event.step == 2 for event in published("checkpoint") + published("eval"))
    assert paused.time < published("checkpoint")[0].time


def test_a_stop_ends_a_pause(make_trainer, published, monkeypatch):
    """A paused run can be ended; it saves first."""
    with trainbus.init("t") as run:
        trainer = make_trainer(At(2, lambda: ask(run, "pause")))
        attach(trainer, run)
        with monkeypatch.context() as patch:
            patch.setattr("trainbus.trainer_node.callback.time.sleep", lambda _: ask(run, "stop"))
            trainer.train()
    assert [step.step for step in published("step")] == [1, 2]
    assert [event.state for event in published("checkpoint")] == ["writing", "complete"]


def test_a_failure_in_the_callback_is_counted_and_the_training_goes_on(make_trainer, monkeypatch, caplog):
    """Monitoring that breaks costs its own figures, never the training."""
    trainer = make_trainer()
    with trainbus.init("t") as run:
        monkeypatch.setattr(run, "step", lambda *_, **__: 1 / 0)
        callback = attach(trainer, run)
        trainer.train()
    assert trainer.state.global_step == 6
    assert callback.stats().errors == 6
    assert "ZeroDivisionError" in callback.stats().last_error
    assert caplog.text.count("training goes on") == 1


def test_a_callback_that_is_not_attached_says_what_to_do(make_trainer, caplog):
    """``callbacks=[TrainbusCallback(run)]`` can't see losses: it does nothing but say so."""
    from trainbus.trainer_node.callback import TrainbusCallback

    with trainbus.init("t") as run:
        trainer = make_trainer(TrainbusCallback(run))
        trainer.train()
    assert "attach(trainer, run)" in caplog.text
