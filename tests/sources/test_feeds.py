"""Logs that grow, each as its program writes it."""

import json
import math

import msgspec
import pytest

from trainbus.errors import DataError
from trainbus.plugins.sinks import tfevents
from trainbus.sources.feeds import FeedPlace, TensorboardFeed, feed_of, recognise, state_file
from trainbus.sources.histories import read


def kept(feed):
    """Its place as another process gets it."""
    return msgspec.convert(msgspec.to_builtins(feed.place), FeedPlace)


def facts(found):
    return [(event.kind, event.step, event.metrics) for event in found]


def write_state(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"global_step": 0, "log_history": list(rows)}))


def row(step, loss):
    return {"step": step, "epoch": step / 10, "loss": loss, "learning_rate": 1e-4}


def test_jsonl_gives_its_new_rows_and_passes_over_what_it_can_not_read(tmp_path):
    """Rows without a step are counted, also across a restart; NaN as json writes it."""
    path = tmp_path / "log.jsonl"
    path.write_text('{"loss": 1.0}\n{"loss": NaN}\noops\n[1]\n{"kind": "step"')
    feed = feed_of("jsonl", path, FeedPlace())
    first, second = feed.look()
    assert (first.step, second.step) == (0, 1)
    assert math.isnan(second.metrics["loss"])
    assert feed.place.bad == 2
    again = feed_of("jsonl", path, kept(feed))
    with path.open("a") as stream:
        stream.write(', "step": 7, "metrics": {"loss": null}, "not_finite": {"metrics.loss": "inf"}}\n')
        stream.write('{"loss": 3.0}\n{"kind": "command", "verb": "stop", "id": "1"}\n{"kind": "run_ended"}\n')
    assert facts(again.look()) == [("step", 7, {"loss": math.inf}), ("step", 2, {"loss": 3.0})]
    assert again.place.finished


def test_a_log_that_grows_gives_what_the_whole_log_gives_later(tmp_path):
    """So that a detector finds the same in a training that is followed and in its log that is tested afterwards."""
    path = tmp_path / "log.jsonl"
    rows = [
        {"iteration": 1, "wall_time": 5.0, "lm loss": 2.5, "optim/lr": 0.1, "total_grad_norm": 3.0, "mfu": 0.4},
        {"iteration": 2, "wall_time": 6.0, "metrics": {"lm loss": "nan", "optim/lr": 0.1}},
        {"iteration": 2, "split": "val", "lm loss": 2.25, "acc": 0.5},
        {"iteration": 3, "validation/perplexity": 9.0, "config": {"depth": 12}},
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    grown = feed_of("jsonl", path, FeedPlace()).look()
    assert facts(grown[:1]) == [("step", 1, {"loss": 2.5, "learning_rate": 0.1, "grad_norm": 3.0, "mfu": 0.4})]
    whole = list(read(path))
    assert [repr(msgspec.structs.replace(event, run="")) for event in whole] == [repr(event) for event in grown]


def test_lines_are_read_by_patterns_and_numbered_across_a_restart(tmp_path):
    """The output of a training that was redirected into a file."""
    path = tmp_path / "train.out"
    path.write_bytes(b"start\n{'loss': 2.0, 'epoch': 0.1}\n{'loss': 1.5, 'epoch'")
    feed = feed_of("lines", path, FeedPlace())
    assert facts(feed.look()) == [("step", 1, {"loss": 2.0})]
    with path.open("ab") as stream:
        stream.write(b": 0.2}\r\n{'train_runtime': '3', 'train_loss': '1.7', 'epoch': '1'}\n")
    again = feed_of("lines", path, kept(feed))
    assert facts(again.look()) == [("step", 2, {"loss": 1.5})]
    assert again.place.finished


def test_a_trainer_state_gives_its_new_rows_each_time_it_is_written(tmp_path):
    """In the folder of the newest checkpoint, and at the end in the run's own; half a file is read the next time."""
    run = tmp_path / "run"
    feed = feed_of("trainer_state", run, FeedPlace())
    assert feed.look() == []
    write_state(run / "checkpoint-2" / "trainer_state.json", row(1, 3.0), row(2, 2.0))
    assert recognise(run) == "trainer_state"
    assert [event.step for event in feed.look()] == [1, 2]
    assert feed.look() == []
    (run / "checkpoint-4").mkdir()
    (run / "checkpoint-4" / "trainer_state.json").write_text('{"log_history": [{"lo')
    assert feed.look() == []
    rows = [row(1, 3.0), row(2, 2.0), row(3, 1.5), {"step": 3, "epoch": 0.3, "eval_loss": 1.4}]
    write_state(run / "checkpoint-4" / "trainer_state.json", *rows)
    again = feed_of("trainer_state", run, kept(feed))
    assert facts(again.look()) == [("step", 3, {"loss": 1.5, "learning_rate": 1e-4}), ("eval", 3, {"loss": 1.4})]
    assert not again.place.finished
    write_state(run / "trainer_state.json", *rows, {"step": 3, "train_runtime": 9.0, "train_loss": 2.0})
    assert again.look() == []
    assert again.place.finished


def test_a_training_that_is_resumed_from_an_earlier_checkpoint_gives_what_it_logs_anew(tmp_path):
    """Its history is the earlier one up to that checkpoint."""
    run = tmp_path / "run"
    feed = feed_of("trainer_state", run, FeedPlace())
    for last in (2, 4):
        write_state(run / f"checkpoint-{last}" / "trainer_state.json", *(row(step, 1.0) for step in range(1, last + 1)))
        feed.look()
    write_state(run / "checkpoint-3" / "trainer_state.json", row(1, 1.0), row(2, 1.0), row(3, 0.5))
    assert state_file(run) == run / "checkpoint-3" / "trainer_state.json"
    assert facts(feed.look()) == [("step", 3, {"loss": 0.5, "learning_rate": 1e-4})]


def test_a_tensorboard_folder_gives_a_step_for_each_row_once_it_is_whole(tmp_path):
    """Scalars of one step come one by one; a record that is half there waits, and so does the last row until the file is quiet."""
    file = tmp_path / "runs" / "events.out.tfevents.1.host"
    file.parent.mkdir()
    file.write_bytes(
        tfevents.version(1.0) + tfevents.scalars(1.0, 1, [("train/loss", 2.0)]) + tfevents.scalars(1.0, 1, [("train/lr", 0.5)])
    )
    feed = TensorboardFeed(tmp_path, FeedPlace(), quiet=1e9)
    assert recognise(tmp_path) == "tensorboard"
    assert feed.look() == []
    record = tfevents.scalars(2.0, 2, [("train/loss", math.nan)])
    with file.open("ab") as stream:
        stream.write(record[:20])
    assert feed.look() == []
    with file.open("ab") as stream:
        stream.write(record[20:] + tfevents.scalars(2.0, 2, [("eval/loss", 1.5)]))
    assert facts(feed.look()) == [("step", 1, {"loss": 2.0, "learning_rate": 0.5})]
    second = tmp_path / "runs" / "events.out.tfevents.2.host"
    second.write_bytes(tfevents.version(3.0) + tfevents.scalars(3.0, 3, [("train/loss", 1.0)]))
    again = TensorboardFeed(tmp_path, kept(feed), quiet=0.0)
    step, evaluation, later = again.look()
    assert math.isnan(step.metrics["loss"])
    assert (step.step, evaluation.kind, evaluation.metrics, later.step) == (2, "eval", {"loss": 1.5}, 3)
    assert again.look() == []


def test_what_transformers_writes_at_the_end_is_the_end_and_no_metric(tmp_path):
    """A folder that is not there yet has nothing."""
    file = tmp_path / "runs" / "events.out.tfevents.1.host"
    feed = TensorboardFeed(file.parent, FeedPlace(), quiet=0.0)
    assert feed.look() == []
    file.parent.mkdir()
    last = [("train/loss", 2.0), ("train/train_runtime", 9.0), ("train/train_loss", 3.0), ("train/total_flos", 0.0)]
    file.write_bytes(tfevents.version(1.0) + b"".join(tfevents.scalars(1.0, 5, [one]) for one in last))
    assert facts(feed.look()) == [("step", 5, {"loss": 2.0})]
    assert feed.place.finished


def test_a_file_that_is_none_of_tensorboards_is_named_and_holds_up_no_other(tmp_path):
    """What the others have comes first."""
    (tmp_path / "events.out.tfevents.1.bad").write_bytes(b"\xff" * 100)
    (tmp_path / "events.out.tfevents.2.good").write_bytes(tfevents.version(1.0) + tfevents.scalars(1.0, 1, [("loss", 2.0)]))
    feed = TensorboardFeed(tmp_path, FeedPlace(), quiet=0.0)
    assert [event.step for event in feed.look()] == [1]
    with pytest.raises(DataError, match=r"events\.out\.tfevents\.1\.bad is no TensorBoard event file"):
        feed.look()


def test_a_log_is_recognised_by_its_name_and_content(tmp_path):
    """Nothing is assumed of what is not there."""
    assert recognise(tmp_path / "nothing.log") is None
    assert recognise(tmp_path) is None
    assert recognise(tmp_path / "trainer_state.json") == "trainer_state"
    for name, form in (("a.jsonl", "jsonl"), ("a.ndjson", "jsonl"), ("train.log", "lines")):
        (tmp_path / name).touch()
        assert recognise(tmp_path / name) == form
