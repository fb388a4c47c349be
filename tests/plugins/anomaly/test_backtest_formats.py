"""Logs as strangers write them: each holds the same spike at value 60, which is found whatever the columns are called."""

import json
import math
import random

import pytest

from tests.plugins.anomaly.feeding import configured
from trainbus.bus.events import Eval, Step
from trainbus.cli import app
from trainbus.errors import DataError
from trainbus.plugins.anomaly.backtest.findings import backtest
from trainbus.sources.histories import read
from trainbus.sources.names import meanings

NOISE = random.Random(1)
LOSSES = [2 + math.exp(-n / 30) + NOISE.gauss(0, 0.01) + (3.0 if 60 <= n < 64 else 0.0) for n in range(100)]


def table(header, row, *, sep=","):
    return header + "\n" + "\n".join(sep.join(map(str, row(n, loss))) for n, loss in enumerate(LOSSES)) + "\n"


def lines(row):
    return "\n".join(json.dumps(row(n, loss)) for n, loss in enumerate(LOSSES)) + "\n"


FORMATS = {
    "slashes.csv": table("train/global_step,train/loss,train/learning_rate", lambda n, loss: (n, loss, 1e-4)),
    "wandb.csv": table(
        '"Step","happy-sun-7 - train/loss","happy-sun-7 - train/loss__MIN","happy-sun-7 - train/loss__MAX"', lambda n, x: (n, x, 0.1, 99)
    ),
    "lightning.csv": table(
        "epoch,step,train_loss_step,train_loss_epoch,lr-AdamW", lambda n, loss: (0, n, loss, "" if n % 50 else 9.9, 1e-4)
    ),
    "megatron.csv": table("iteration,lm loss,learning rate,grad norm", lambda n, loss: (n, loss, 1e-4, 1.0)),
    "semicolons.csv": table("step;loss", lambda n, loss: (n, str(loss).replace(".", ",")), sep=";"),
    "comment.csv": "# written by hand\n" + table(",Step,Train Loss", lambda n, loss: (n, n, loss)),
    "long.csv": table("step,metric,value", lambda n, loss: (n, "train/loss", loss)),
    "run-x-tag-train_loss.csv": table("Wall time,Step,Value", lambda n, loss: (1.7e9 + n, n, loss)),
    "filled.csv": table("step,loss,val_loss", lambda n, loss: (n, loss, "nan" if n % 10 else 2.0)),
    "rows.csv": table("split,step,loss", lambda n, loss: ("train", n, loss)).replace("train,7,", "val,7,90\ntrain,7,"),
    "nested.jsonl": lines(lambda n, loss: {"step": n, "train": {"loss": loss, "lr": 1e-4}, "config": {"lr": 7}}),
    "wrapped.jsonl": lines(lambda n, loss: {"type": "train", "iteration": n, "metrics": {"loss": loss}}) + '{"torn',
    "strings.jsonl": lines(lambda n, loss: {"step": str(n), "loss": f"{loss:.4f}", "ts": "2024-01-01T00:00:00Z", "flag": True}),
    "kind.jsonl": lines(lambda n, loss: {"kind": "step", "step": n, "loss": loss}),
    "columns.json": json.dumps({"step": list(range(100)), "loss": LOSSES}),
    "pandas.json": json.dumps({"Step": {n: n for n in range(100)}, "Loss": dict(enumerate(LOSSES))}),
    "history.json": json.dumps({"history": [{"step": n, "loss": loss} for n, loss in enumerate(LOSSES)], "seed": 1}),
    "printed.log": "started\n" + "".join(f"iter {n}: loss {loss:.4f}, time 135.1ms, lr 1e-4\n" for n, loss in enumerate(LOSSES)),
    "dicts.log": "".join(f"{{'loss': {loss:.4f}, 'learning_rate': 1e-04, 'epoch': 0.1}}\n" for loss in LOSSES),
    "pairs.txt": "".join(f"step:{n}/100 train_loss:{loss:.4f} step_avg:97.1ms\n" for n, loss in enumerate(LOSSES)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_spike_is_found_in_every_form_of_log(name, tmp_path):
    """And nothing else is: neither epoch means nor settings nor filled cells are taken for losses."""
    path = tmp_path / name
    path.write_text(FORMATS[name])
    found = backtest(name, read(path), configured())
    assert [(line.rule, line.metric, line.step) for line in found if line.severity != "info"] == [("loss_spike", "loss", 60)]


def test_of_several_losses_the_plainest_is_the_training_loss():
    """The others stay what they are; of losses that nobody knows none is chosen."""
    columns = ["loss", "train_loss", "kl_loss", "val/loss", "eval_gsm8k_acc", "accuracy/test", "_runtime"]
    assert {name: (one.role, one.name) for name, one in meanings(columns).items()} == {
        "loss": ("train", "loss"), "train_loss": ("train", "train_loss"), "kl_loss": ("train", "kl_loss"), "val/loss": ("eval", "loss"),
        "eval_gsm8k_acc": ("eval", "gsm8k_acc"), "accuracy/test": ("eval", "accuracy"), "_runtime": ("train", "_runtime"),
    }  # fmt: skip
    assert "loss" not in {one.name for one in meanings(["kl_loss", "policy_loss"]).values()}


def test_rows_of_an_evaluation_are_none_of_training(tmp_path):
    """A word in the row tells, or the folder of a TensorBoard."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"split": "train", "step": 1, "loss": 2.0}\n{"split": "validation", "step": 1, "loss": 3.0, "acc": 0.5}\n')
    step, evaluation = read(path)
    assert (type(step), step.metrics) == (Step, {"loss": 2.0})
    assert (type(evaluation), evaluation.metrics) == (Eval, {"loss": 3.0, "accuracy": 0.5})


def test_not_logged_is_said_in_many_words(tmp_path):
    """None and null in a table, null in JSON; a NaN is one."""
    path = tmp_path / "a.csv"
    path.write_text("step,loss,val_loss\n1,2.0,None\n2,nan,null\n3,N/A,-\n")
    first, second = read(path)
    assert first.metrics == {"loss": 2.0}
    assert math.isnan(second.metrics["loss"])
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 1, "loss": null}\n{"step": 2, "loss": NaN}\n{"step": 3, "loss": "nan"}\n')
    assert [event.step for event in read(path)] == [2, 3]


def test_a_log_without_a_known_loss_is_told_and_a_column_can_be_named(tmp_path, capsys):
    """Silence would look like health."""
    path = tmp_path / "a.csv"
    path.write_text(table("when,objective,aim", lambda n, loss: (n, loss, 1.0)))
    assert app.run(["backtest", "--json", str(path)]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "no training loss was recognised" in told.err
    assert "objective" in told.err
    assert app.run(["backtest", "--json", "--column", "loss=objective", "--column", "step=when", str(path)]) == 0
    told = capsys.readouterr()
    assert [json.loads(line)["step"] for line in told.out.splitlines()] == [60]
    assert "no training loss" not in told.err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "1,2.0\n2,2.1\n", "no names"),
        ("a.log", "hello\n", "no line with a loss"),
        ("a.jsonl", '{"a": 1}\n{\n{"a": 2}\n', "line 2"),
    ],
)
def test_what_is_no_log_is_named(name, content, said, tmp_path):
    """With its place, and what would be one."""
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said):
        list(read(tmp_path / name))


def test_a_chosen_column_that_is_not_there_is_refused(tmp_path):
    """With those that are."""
    (tmp_path / "a.csv").write_text("step,loss\n1,2.0\n")
    with pytest.raises(DataError, match="no column 'los'") as error:
        list(read(tmp_path / "a.csv", {"loss": "los"}))
    assert "step, loss" in str(error.value.hint)
