"""Figures of an evaluation against a plain numpy reference, and figures that go on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trainbus.judging.statistics import calibration_error, confidence_of
from trainbus.trainer_node.evaluation import figures
from trainbus.trainer_node.evaluation.running import RunningAccuracy, Standing, StreamingLoss


def reference(logits, labels):
    """Each labelled token: its loss, entropy, confidence, and whether the likeliest is right."""
    found = []
    for row, wanted in zip(logits[:, :-1], labels[:, 1:], strict=True):
        for given, label in zip(row, wanted, strict=True):
            if label != -100:
                p = np.exp(given - given.max())
                p /= p.sum()
                found.append((-np.log(p[label]), -(p * np.log(p)).sum(), p.max(), p.argmax() == label))
    return found


def test_loss_entropy_and_calibration_of_tokens_are_those_of_numpy():
    """Over examples of different lengths, whatever the batches: each token with loss counts alike, others don't count (A-98, A-100)."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 300, 7)) * 3, rng.integers(0, 7, size=(6, 300))
    labels[:, :5] = labels[3, 40:] = labels[4] = -100
    rows = torch.cat([figures.measure(torch.tensor(logits[at : at + 2]), torch.tensor(labels[at : at + 2])) for at in (0, 2, 4)]).numpy()
    told = figures.summarise(rows)
    tokens = reference(logits, labels)
    assert told["cross_entropy"] == pytest.approx(np.mean([token[0] for token in tokens]), rel=1e-5)
    assert told["token_entropy"] == pytest.approx(np.mean([token[1] for token in tokens]), rel=1e-5)
    assert told["token_accuracy"] == pytest.approx(np.mean([token[3] for token in tokens]))
    assert told["calibration_error"] == pytest.approx(calibration_error((token[2], token[3]) for token in tokens), rel=1e-4)
    first = reference(logits[:1], labels[:1])
    assert figures.losses(rows)[0] == pytest.approx(np.mean([token[0] for token in first]), rel=1e-5)
    assert math.isnan(figures.losses(rows)[4])
    assert figures.summarise(rows[4:5]) == {}


def test_calibration_error_is_the_distance_of_confidence_and_accuracy_in_each_bin():
    """Ten answers at 0.95 of which half are right, and ten at 0.25 of which none is."""
    verdicts = [(0.95, number < 5) for number in range(10)] + [(0.25, False)] * 10
    assert calibration_error(verdicts) == pytest.approx((0.45 + 0.25) / 2)
    assert calibration_error([(1.0, True)]) == 0
    assert math.isnan(calibration_error([]))
    assert confidence_of(math.log(2)) == pytest.approx(0.5)


def test_a_model_whose_logits_are_no_numbers_is_measured_all_the_same():
    """The figures are NaN then; nothing is raised into the training."""
    rows = figures.measure(torch.full((1, 4, 7), math.nan), torch.ones(1, 4, dtype=torch.long)).numpy()
    assert math.isnan(figures.summarise(rows)["cross_entropy"])
    assert math.isnan(confidence_of(figures.losses(rows)[0]))
    assert calibration_error([(math.nan, True), (1.0, True)]) == 0


def test_running_accuracy_of_a_hundred_answers_is_exact_and_goes_on_after_a_restart():
    """The last 20, the last 50, all, and the trend: the last 20 less the 20 before them (A-96)."""
    results = [number % 3 == 0 or number >= 90 for number in range(100)]
    standing = Standing()
    RunningAccuracy(standing).add(results[:70])
    again = RunningAccuracy(standing)
    again.add(results[70:])
    assert again.figures() == pytest.approx({
        "accuracy_last_20": sum(results[80:]) / 20,
        "accuracy_last_50": sum(results[50:]) / 50,
        "accuracy_overall": sum(results) / 100,
        "accuracy_trend": (sum(results[80:]) - sum(results[60:80])) / 20,
    })  # fmt: skip
    assert RunningAccuracy(Standing()).figures() == {}


def test_the_course_of_the_training_loss_is_read_from_tensors_and_numbers_alike():
    """Moving average with 0.1, mean and variance of the last 50; many values are read at once (A-97)."""
    values = [2.0 + math.sin(number) for number in range(700)]
    average = values[0]
    for value in values[1:]:
        average += 0.1 * (value - average)
    for make in (float, lambda value: torch.tensor(value, dtype=torch.float64)):
        course = StreamingLoss()
        assert course.figures() == {}
        for value in values:
            course.add(make(value))
        told = course.figures()
        assert told["train_loss"] == pytest.approx(np.mean(values[-50:]), abs=1e-6)
        assert told["train_loss_variance"] == pytest.approx(np.var(values[-50:]), abs=1e-6)
        assert told["train_loss_average"] == pytest.approx(average, abs=1e-6)
        assert course.figures() == told
