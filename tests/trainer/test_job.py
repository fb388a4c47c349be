"""One job from file to checkpoints: every method trains, a resumed job is the same training, and a ruined one keeps what was good."""

from __future__ import annotations

import math

import pytest
import torch

from trainbus.errors import ConfigError, DataError, ModelError
from trainbus.trainer_node import checkpoints
from trainbus.trainer_node.callback import TrainbusCallback
from trainbus.trainer_node.config import Resume, TrainerConfig
from trainbus.trainer_node.job import run_job


@pytest.fixture
def config(tiny_base, questions, tmp_path):
    """A job of a few steps; keywords override."""

    def make(**given):
        defaults = {
            "model": str(tiny_base), "data": str(questions), "output": str(tmp_path / "out"), "method": "full",
            "max_steps": 8, "save_steps": 3,
            "batch_size": 2, "learning_rate": 1e-3, "warmup": 2, "max_length": 64, "lora_r": 4, "lora_alpha": 8,
            "eval_tokens": 4,
        }  # fmt: skip
        return TrainerConfig(**(defaults | given))

    return make


@pytest.fixture
def stop_after(monkeypatch):
    """Ask every training to stop when it has made so many steps, as a signal would."""

    def arrange(step):
        original = TrainbusCallback.on_step_end

        def on_step_end(self, args, state, control, **rest):
            if state.global_step == step:
                self.request_stop("signal SIGTERM")
            original(self, args, state, control, **rest)

        monkeypatch.setattr(TrainbusCallback, "on_step_end", on_step_end)
        return lambda: monkeypatch.setattr(TrainbusCallback, "on_step_end", original)

    return arrange


def losses(published, run):
    return {step.step: step.metrics["loss"] for step in published("step") if step.run == run}


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_every_method_trains_and_leaves_whole_checkpoints(config, published, tmp_path, method):
    """Full, LoRA and QLoRA (4 bits on the CPU): steps, phases, evaluation, checkpoints, and a summary that agrees with them."""
    summary = run_job(config(method=method, max_steps=4, eval_fraction=0.1, eval_steps=4, gradient_accumulation=2))
    assert (summary.outcome, summary.steps, summary.total_steps) == ("completed", 4, 4)
    told = losses(published, summary.run)
    assert (summary.loss_first, summary.loss_last) == (told[1], told[4])
    assert all(math.isfinite(loss) for loss in told.values())
    assert [checkpoints.step_of(tmp_path / path) for path in summary.checkpoints] == [3, 4]
    assert summary.metrics["eval_loss"] == published("eval")[-1].metrics["loss"]
    assert [event.name for event in published("phase") if event.state == "started"][:4] == ["load_data", "tokenize", "load_model", "train"]
    started, ended = published("run_started")[0], published("run_ended")[0]
    assert started.config["method"] == method
    assert "torch" in started.versions
    assert (ended.outcome, ended.step) == ("completed", 4)


def test_evaluating_a_quantised_model_in_the_middle_does_not_spoil_its_training(config, published, tmp_path):
    """On the CPU bitsandbytes repacks 4-bit weights to evaluate, with scales rounded to bfloat16: losses move by that and no more."""
    without = run_job(config(method="qlora", max_steps=4, output=str(tmp_path / "a")))
    measured = run_job(config(method="qlora", max_steps=4, output=str(tmp_path / "b"), eval_file=config().data, eval_steps=2))
    assert list(losses(published, measured.run).values()) == pytest.approx(list(losses(published, without.run).values()), rel=2**-8)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_an_interrupted_and_resumed_training_equals_an_uninterrupted_one(config, published, stop_after, tmp_path, method):
    """Model, optimizer, schedule, random numbers and the place in the data come back: every further loss is the same (A-53)."""
    options = {"method": method, "lora_dropout": 0.1, "scheduler": "cosine"}
    whole = run_job(config(**options, output=str(tmp_path / "whole")))
    undo = stop_after(5)
    first = run_job(config(**options))
    assert (first.outcome, first.reason, first.steps) == ("stopped", "signal SIGTERM", 5)
    undo()
    second = run_job(config(**options), resume=Resume(wanted=True))
    assert (second.run, second.resumed_step, second.steps, second.outcome) == (first.run, 5, 3, "completed")
    expected = losses(published, whole.run)
    got = losses(published, first.run)
    assert list(got) == list(expected) == list(range(1, 9))
    for step, loss in expected.items():
        assert got[step] == pytest.approx(loss, abs=1e-6)
    assert second.examples == whole.examples
    assert second.tokens == whole.tokens
    resumed = published("run_started")[-1]
    assert (resumed.resumed_from, resumed.resumed_step) == (first.run, 5)


def test_a_loss_that_becomes_nan_ends_the_job_as_failed_and_good_checkpoints_stay(config, published, monkeypatch, tmp_path):
    """The weights are ruined with the first NaN: nothing is saved after it, and what was saved before is as it was."""
    import transformers

    original = transformers.Trainer.compute_loss

    def compute_loss(self, *args, **rest):
        return original(self, *args, **rest) * (math.nan if self.state.global_step == 4 else 1.0)

    monkeypatch.setattr(transformers.Trainer, "compute_loss", compute_loss)
    summary = run_job(config())
    assert summary.outcome == "failed"
    assert "nan" in summary.reason
    assert "at step 5" in summary.reason
    assert [checkpoints.step_of(tmp_path / path) for path in summary.checkpoints] == [3]
    assert checkpoints.faults(tmp_path / "out" / "checkpoint-3", contents=True) == []
    assert [path.name for path in checkpoints.listed(tmp_path / "out")] == ["checkpoint-3"]
    assert math.isnan(losses(published, summary.run)[5])
    ended = published("run_ended")[0]
    assert (ended.outcome, ended.reason) == ("failed", summary.reason)


def test_weights_that_an_infinite_gradient_ruined_are_not_saved(config, monkeypatch, tmp_path):
    """The loss of the step that ruins the weights may still be finite: the gradient norm tells."""
    import transformers

    def backward(self, loss, **_):
        loss.backward()
        if monkeypatch_state["step"]() == 2:
            next(p for p in monkeypatch_state["model"]().parameters() if p.grad is not None).grad.fill_(math.inf)

    monkeypatch_state = {}
    original = transformers.Trainer.training_step

    def training_step(self, *args, **rest):
        monkeypatch_state.update(step=lambda: self.state.global_step, model=lambda: self.model)
        return original(self, *args, **rest)

    monkeypatch.setattr(transformers.Trainer, "training_step", training_step)
    monkeypatch.setattr("accelerate.Accelerator.backward", backward)
    summary = run_job(config())
    assert summary.outcome == "failed"
    assert "at step 3" in summary.reason
    assert checkpoints.listed(tmp_path / "out") == []


def test_an_output_with_checkpoints_is_not_written_over(config):
    """A second training into the same directory is refused, with the two ways on."""
    run_job(config(max_steps=3))
    with pytest.raises(ConfigError, match="earlier training") as caught:
        run_job(config(max_steps=3))
    assert "--resume" in caught.value.hint


def test_resuming_what_is_complete_or_of_another_method_is_refused(config):
    """Nothing is trained by accident."""
    run_job(config(max_steps=3))
    with pytest.raises(ConfigError, match="at step 3 of 3"):
        run_job(config(max_steps=3), resume=Resume(wanted=True))
    with pytest.raises(ModelError, match="method = 'full'"):
        run_job(config(max_steps=6, method="lora"), resume=Resume(wanted=True))


def test_an_incomplete_checkpoint_is_refused_and_the_older_one_offered_resumes(config, tmp_path):
    """Missing optimizer state is an error, never a silent fresh start (A-54); the older whole one goes on."""
    run_job(config(max_steps=6))
    (tmp_path / "out" / "checkpoint-6" / "optimizer.pt").unlink()
    with pytest.raises(ModelError, match=r"optimizer\.pt is missing") as caught:
        run_job(config(), resume=Resume(wanted=True))
    assert caught.value.facts["offered"] == str(tmp_path / "out" / "checkpoint-3")
    summary = run_job(config(), resume=Resume(path=caught.value.facts["offered"]))
    assert (summary.resumed_step, summary.steps) == (3, 5)
    assert checkpoints.faults(tmp_path / "out" / "checkpoint-6") == []  # written again, and whole


@pytest.mark.parametrize("method", ["full", "lora"])
def test_activations_that_are_computed_again_change_no_loss(config, published, tmp_path, method):
    """Gradient checkpointing, with accumulation: also adapters on a frozen base get their gradients."""
    options = {"method": method, "max_steps": 3, "gradient_accumulation": 2}
    runs = [run_job(config(**options, gradient_checkpointing=on, output=str(tmp_path / str(on)))).run for on in (False, True)]
    kept, again = (list(losses(published, run).values()) for run in runs)
    assert again == pytest.approx(kept, abs=1e-6)
    assert kept[0] != kept[-1]


@pytest.mark.parametrize(("method", "kept"), [("full", "F32"), ("lora", "F32")])
def test_what_is_trained_in_bfloat16_is_kept_in_float32(config, published, tmp_path, method, kept):
    """Small updates would round to nothing in 16 bits; the loss shows that it computes in bfloat16 all the same."""
    from safetensors import safe_open

    summary = run_job(config(method=method, max_steps=2, dtype="bfloat16"))
    name = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    with safe_open(tmp_path / "out" / "checkpoint-2" / name, "pt") as saved:
        assert {saved.get_slice(key).get_dtype() for key in saved.keys()} == {kept}  # noqa: SIM118 - no mapping
    precise = run_job(config(method=method, max_steps=1, output=str(tmp_path / "precise")))
    assert summary.loss_first != precise.loss_first
    assert summary.loss_first == pytest.approx(precise.loss_first, rel=2**-6)


def test_auto_is_what_suits_the_machine_and_float16_needs_an_accelerator(config, published, tmp_path):
    """What came of ``auto`` is told with the run; nothing falls back in silence."""
    run_job(config(max_steps=1))
    told = published("run_started")[0].config
    accelerated = torch.cuda.is_available()
    assert (told["dtype"] == "float32", told["gradient_checkpointing"]) == (not accelerated, accelerated)
    if not accelerated:
        with pytest.raises(ConfigError, match="needs an accelerator"):
            run_job(config(dtype="float16", output=str(tmp_path / "other")))


def test_a_checkpoint_is_saved_when_the_last_one_is_old(config, tmp_path):
    """By minutes as well as by steps; so short a time is over at each step."""
    run_job(config(max_steps=3, save_steps=100, save_minutes=1e-9))
    assert [path.name for path in checkpoints.listed(tmp_path / "out")] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"data": ""}, DataError, "No training data"),
        ({"data": "missing.jsonl"}, DataError, "no file missing.jsonl"),
        ({"eval_file": "missing.jsonl"}, DataError, "no file missing.jsonl"),
        ({"model": ""}, ModelError, "No model is named"),
        ({"model": "./nowhere/at/all"}, ModelError, "no model directory"),
        ({"model": "nobody/no-such-model"}, ModelError, "the hub does not give"),
        ({"model": "config:missing.json"}, ModelError, "can't be read"),
        ({"lora_targets": "no_such_module", "method": "lora"}, ModelError, "Adapters can't be put"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_words(config, given, error, says):
    """Each with what to do next."""
    with pytest.raises(error, match=says) as caught:
        run_job(config(**given))
    assert caught.value.hint


def test_a_directory_that_is_no_model_is_told_what_it_lacks(config, tiny_base, tmp_path):
    """A directory of adapters, an empty one and the parent of a model each get their own advice."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"config\.json is missing; weights are missing"):
        run_job(config(model=str(tmp_path / "empty")))
    (tmp_path / "empty" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError) as caught:
        run_job(config(model=str(tmp_path / "empty")))
    assert "base model" in caught.value.hint
    with pytest.raises(ModelError) as caught:
        run_job(config(model=str(tiny_base.parent)))
    assert f"Did you mean {tiny_base}?" in caught.value.hint


def test_a_fresh_model_is_made_from_a_configuration(config, tmp_path):
    """``config:FILE`` needs no download: a small Qwen3 with a byte-level tokenizer, the same for the same seed."""
    (tmp_path / "shape.json").write_text('{"hidden_size": 32, "num_hidden_layers": 1}')
    options = {"model": f"config:{tmp_path / 'shape.json'}", "max_steps": 2}
    first = run_job(config(**options, output=str(tmp_path / "a")))
    again = run_job(config(**options, output=str(tmp_path / "b")))
    other = run_job(config(**options, output=str(tmp_path / "c"), seed=1))
    assert first.loss_first == again.loss_first != other.loss_first


def test_evaluation_data_and_training_data_are_not_mixed(config, questions, published):
    """A file of its own for evaluation is measured whole."""
    summary = run_job(config(max_steps=2, eval_file=str(questions), eval_steps=1))
    assert len(published("eval")) == 2
    assert torch.isfinite(torch.tensor(summary.metrics["eval_loss"]))
