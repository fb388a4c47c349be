"""Evaluations of a real training: samples, metrics, and a training that goes on whatever becomes of them."""

from __future__ import annotations

import json
import math
import threading

import pytest

from trainbus.trainer_node import checkpoints
from trainbus.trainer_node.config import Resume, TrainerConfig
from trainbus.trainer_node.evaluation import answering, examination
from trainbus.trainer_node.job import run_job


@pytest.fixture
def config(tiny_base, questions, tmp_path):
    """A training of four steps that is evaluated every second; keywords override."""

    def make(**given):
        defaults = {
            "model": str(tiny_base), "data": str(questions), "output": str(tmp_path / "out"), "method": "full", "dtype": "float32",
            "max_steps": 4, "save_steps": 4, "eval_fraction": 0.2, "eval_steps": 2, "eval_samples": 3, "eval_tokens": 3,
            "batch_size": 2, "learning_rate": 1e-3, "warmup": 2, "max_length": 64,
        }  # fmt: skip
        return TrainerConfig(**(defaults | given))

    return make


def test_each_evaluation_asks_the_same_questions_and_goes_on_with_its_figures(config, published, questions, tmp_path):
    """Samples hold question, both answers, verdict and the loss of that same example; the figures survive a resumption."""
    run_job(config(eval_train_samples=2))
    second = run_job(config(eval_train_samples=2, max_steps=6), resume=Resume(wanted=True))
    samples = published("sample")
    assert [sample.step for sample in samples] == [2] * 5 + [4] * 5 + [6] * 5
    first, again = samples[:5], samples[5:10]
    assert [sample.example for sample in first] == [sample.example for sample in again]
    assert [sample.dataset for sample in first] == ["validation"] * 3 + ["training"] * 2
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    for sample in first:
        row = rows[int(sample.example.rpartition(":")[2]) - 1]
        assert (sample.prompt, sample.expected) == (row["question"], row["answer"])
        assert sample.correct is (sample.answer == sample.expected)
        assert 0 < sample.loss < math.inf
    assert again[0].loss < first[0].loss
    told = published("eval")[-1].metrics
    assert told["answered"] == 3
    assert told["answer_confidence"] == pytest.approx(sum(math.exp(-sample.loss) for sample in samples[10:13]) / 3)
    wanted = {
        "loss", "cross_entropy", "token_entropy", "token_accuracy", "calibration_error", "answer_calibration_error", "exact_match",
        "exact_match_best", "accuracy_last_20", "accuracy_last_50", "accuracy_overall", "train_loss", "train_loss_average", "loss_gap",
    }  # fmt: skip
    assert wanted <= told.keys()
    assert second.metrics["eval_exact_match"] == told["exact_match"]
    newest = checkpoints.listed(tmp_path / "out")[-1]
    assert checkpoints.faults(newest, contents=True) == []
    assert examination.read_standing(newest).asked == 9
    mistakes = [json.loads(line) for line in (tmp_path / "out" / "mistakes.jsonl").read_text().splitlines()]
    assert {row["example"] for row in mistakes} == {sample.example for sample in samples if sample.dataset == "training"}


def test_measuring_again_gives_the_same_numbers(config, published, tmp_path):
    """The same model and the same set, in two trainings: figures and answers are identical (A-98)."""
    for name in ("a", "b"):
        run_job(config(output=str(tmp_path / name)))
    evals, samples = published("eval"), published("sample")
    speeds = {"runtime"}
    pairs = [({k: v for k, v in one.metrics.items() if k not in speeds}, one.step) for one in evals]
    assert pairs[:2] == pairs[2:]
    assert [(one.answer, one.loss) for one in samples[:6]] == [(one.answer, one.loss) for one in samples[6:]]


def test_a_model_that_does_not_answer_holds_no_training_up(config, published, monkeypatch):
    """A stuck generator is aborted at the limit, told once, and not tried again; the training ends as without it (A-99)."""
    from transformers import Qwen3ForCausalLM

    never, asked = threading.Event(), []
    monkeypatch.setattr(answering, "GRACE_SECONDS", 0.05)
    monkeypatch.setattr(Qwen3ForCausalLM, "generate", lambda self, **_: (asked.append(1), never.wait()))
    summary = run_job(config(eval_answer_seconds=0.05))
    never.set()
    assert (summary.outcome, summary.steps, len(asked)) == ("completed", 4, 1)
    assert published("sample") == []
    assert [("exact_match" in event.metrics, "cross_entropy" in event.metrics) for event in published("eval")] == [(False, True)] * 2


def test_a_failing_generator_costs_nothing_but_its_answers(config, published, monkeypatch):
    """What it raises is logged and counted; the evaluation is published all the same, and the training goes on."""
    from transformers import Qwen3ForCausalLM

    monkeypatch.setattr(Qwen3ForCausalLM, "generate", lambda self, **_: 1 / 0)
    summary = run_job(config())
    assert (summary.outcome, summary.steps) == ("completed", 4)
    assert len(published("eval")) == 2
