"""What people call a model means one checkpoint, and the answer says why it is that one."""

from __future__ import annotations

import pytest

from trainbus.errors import RefusedError
from trainbus.inferring.names import Name, choose, parse
from trainbus.plugins.retention.config import DEFAULT_BEST
from trainbus.plugins.retention.records import Record


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("latest", Name("", "latest")),
        ("best", Name("", "best")),
        ("best:gsm8k/accuracy", Name("", "best:gsm8k/accuracy")),
        ("120", Name("", "120")),
        ("run-1", Name("run-1", "latest")),
        ("run-1:120", Name("run-1", "120")),
        ("run-1:best:accuracy", Name("run-1", "best:accuracy")),
        ("runs/a:latest", Name("runs/a", "latest")),
        ("/x/a:b/c:12", Name("/x/a:b/c", "12")),
        ("owner/name", Name("owner/name", "latest")),
        ("odd:name", Name("odd:name", "latest")),
    ],
)
def test_a_name_is_taken_apart(text, name):
    """At the first colon behind which stands what can name a checkpoint."""
    assert parse(text) == name


def record(step, **metrics):
    return Record(f"r@{step}", "r", step, step, f"/out/checkpoint-{step}", metrics=metrics)


RECORDS = [record(80, loss=0.1, eval_loss=0.5), record(999, loss=0.3, eval_loss=0.2, score=3.0), record(1000, loss=0.2, score=1.0)]


@pytest.mark.parametrize(
    ("which", "step", "why"),
    [
        ("latest", 1000, "the newest"),
        ("best", 999, "the best by eval_loss (0.2)"),
        ("best:loss", 80, "the best by loss (0.1)"),
        ("best:score", 999, "the best by score (3)"),
        ("80", 80, ""),
    ],
)
def test_it_means_one_checkpoint(which, step, why):
    """Steps count as numbers; what was measured in evaluations says more than the loss of training."""
    found, told = choose(RECORDS, which, DEFAULT_BEST, of="r")
    assert (found.step, told) == (step, why)


def test_without_an_evaluation_the_training_loss_decides_and_a_damaged_checkpoint_is_never_best_or_newest():
    """By its step it can still be asked for."""
    damaged = Record("r@9", "r", 9, 9, "/out/checkpoint-9", metrics={"loss": 0.01}, faults="cut off")
    records = [record(5, loss=0.4), record(7, loss=0.6), damaged]
    assert choose(records, "best", DEFAULT_BEST, of="r")[0].step == 5
    assert choose(records, "latest", DEFAULT_BEST, of="r")[0].step == 7
    assert choose(records, "9", DEFAULT_BEST, of="r")[0].step == 9


@pytest.mark.parametrize(
    ("records", "which", "says"),
    [(RECORDS, "81", "80, 999, 1000"), (RECORDS, "best:bleu", "eval_loss, loss, score"), ([], "latest", "models list")],
)
def test_what_is_not_there_is_refused_with_what_is(records, which, says):
    """Steps or metrics."""
    with pytest.raises(RefusedError) as caught:
        choose(records, which, DEFAULT_BEST, of="r")
    assert says in caught.value.hint
