"""Sinks of files, read back by those whose files they are."""

import json
import math
import random
import sqlite3

import pyarrow.parquet as parquet
import pytest

from tests.plugins.sinks.conftest import story
from trainbus.bus.events import Step
from trainbus.plugins.sinks import ledger
from trainbus.plugins.sinks.jsonl import JsonlSink
from trainbus.plugins.sinks.parquet import ParquetSink
from trainbus.plugins.sinks.tensorboard import FILE, TensorboardSink
from trainbus.sources.histories import read
from trainbus.sources.tensorboard import read_folder


def lines(directory, run="r-1"):
    return [json.loads(line) for line in (directory / f"{run}.jsonl").read_text().splitlines()]


def rows(directory, run="r-1"):
    files = sorted((directory / run).glob("*.parquet"))
    return [row for file in files for row in parquet.read_table(file).to_pylist()]


def scalars(directory, run="r-1"):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(directory / run), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def test_jsonl_has_every_event_as_a_line_and_reads_back_as_it_was(bus, tmp_path):
    """NaN is null with a flag; heartbeats are not journaled and not written; events of no run have a file of their own."""
    one = bus(JsonlSink, directory=str(tmp_path / "out"))
    one.publish(*story(), Step(step=1, metrics={"loss": 1.0}))
    assert one.write() == 1.0
    found = lines(tmp_path / "out")
    assert [line["kind"] for line in found] == [event.kind for event in story() if event.kind != "heartbeat"]
    assert found[3]["metrics"]["loss"] is None
    assert found[3]["not_finite"] == {"metrics.loss": "nan"}
    back = list(read(tmp_path / "out" / "r-1.jsonl"))
    assert math.isnan(back[3].metrics.pop("loss"))
    assert back[7].value == math.inf
    assert back[:3] == one.context.history[:3]
    assert len(lines(tmp_path / "out", "trainbus")) == 1


def test_parquet_has_every_event_as_a_row_with_nan_as_nan(bus, tmp_path):
    """A file for each batch and run; what has no step has none."""
    one = bus(ParquetSink, directory=str(tmp_path / "out"))
    one.publish(*story()[:4])
    assert one.write() == 60.0
    one.publish(*story()[4:])
    one.write()
    found = rows(tmp_path / "out")
    assert [row["offset"] for row in found] == list(range(11))
    assert [row["kind"] for row in found[:2]] == ["run_started", "step"]
    assert found[1]["metrics.loss"] == 1.0
    assert math.isnan(found[3]["metrics.loss"])
    assert found[0]["config.model.name"] == "tiny"
    assert len(list((tmp_path / "out" / "r-1").iterdir())) == 2


def test_tensorboard_reads_the_scalars_and_texts_back(bus, tmp_path):
    """By its own EventAccumulator, which checks every checksum; and by our reader."""
    one = bus(TensorboardSink, directory=str(tmp_path / "out"))
    one.publish(*story())
    one.write()
    accumulator = scalars(tmp_path / "out")
    loss = accumulator.Scalars("loss")
    assert [point.step for point in loss] == [1, 2, 3, 4, 5]
    assert [point.value for point in loss[:2]] == [1.0, 0.5]
    assert math.isnan(loss[2].value)
    assert loss[0].wall_time == 1_700_000_001.0
    assert accumulator.Scalars("eval/gsm8k/accuracy")[0].value == 0.5
    assert accumulator.Scalars("temperature")[0].value == math.inf
    (alert,) = accumulator.Tensors("alerts/text_summary" if "alerts/text_summary" in accumulator.Tags()["tensors"] else "alerts")
    assert b"The loss is NaN." in alert.tensor_proto.string_val[0]
    (config,) = accumulator.Tensors("config")
    assert b'"layers":2' in config.tensor_proto.string_val[0]
    ours = [event for event in read_folder(tmp_path / "out") if event.kind == "step" and "loss" in event.metrics]
    assert [event.step for event in ours] == [1, 2, 3, 4, 5]


def test_only_the_runs_that_were_asked_for(bus, tmp_path):
    """By patterns; the position passes over the others."""
    one = bus(JsonlSink, directory=str(tmp_path / "out"), runs=["gsm*"])
    one.publish(Step(run="gsm8k-1", step=1), Step(run="other", step=1), Step(run="other", step=2))
    one.write()
    assert [path.name for path in (tmp_path / "out").glob("*.jsonl")] == ["gsm8k-1.jsonl"]
    assert one.stats.position == 2


READERS = {
    JsonlSink: lambda directory: [line["step"] for line in lines(directory)],
    ParquetSink: lambda directory: [row["step"] for row in rows(directory)],
    TensorboardSink: lambda directory: [point.step for point in scalars(directory).Scalars("loss")],
}


@pytest.mark.parametrize("sink", READERS, ids=lambda sink: sink.__name__)
@pytest.mark.parametrize("seed", range(4))
def test_each_event_is_there_once_wherever_the_process_is_killed(bus, tmp_path, monkeypatch, sink, seed):
    """Between the data, its sync, its name and the ledger; before or after commits of the host."""
    chance = random.Random(seed)
    left = [0]

    def deadly(function):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                raise OSError("killed here")
            return function(*arguments, **options)

        return call

    monkeypatch.setattr("trainbus.plugins.sinks.outflow.FIRST_PAUSE", 0.0)
    for module, name in ((ledger.os, "fsync"), (ledger, "sync_folder"), (ledger.Ledger, "_move")):
        monkeypatch.setattr(module, name, deadly(getattr(module, name)))
    one = bus(sink, directory=str(tmp_path / "out"), batch=7)
    step = 0
    for _ in range(25):
        left[0] = chance.choice((0, 1, 2, 3, 4, 5))
        for _ in range(chance.randrange(6)):
            step += 1
            one.publish(Step(run="r-1", step=step, metrics={"loss": 1.0}))
            if chance.random() < 0.3:
                one.commit()
        if chance.random() < 0.6:
            one.write()
        if chance.random() < 0.5:
            left[0] = 0
            one.kill()
            one.start()
    left[0] = 0
    one.publish(Step(run="r-1", step=step + 1, metrics={"loss": 1.0}))
    while one.stats.position < step:
        one.write()
    assert READERS[sink](tmp_path / "out") == list(range(1, step + 2))


def test_a_torn_line_is_cut_off_and_a_deleted_folder_is_written_anew(bus, tmp_path):
    """The ledger says how long a file is; without a ledger nothing has been written."""
    out = tmp_path / "out"
    one = bus(JsonlSink, directory=str(out))
    one.publish(*(Step(run="r-1", step=step) for step in range(3)))
    one.write()
    one.commit()
    one.kill()
    with (out / "r-1.jsonl").open("a") as stream:
        stream.write('{"kind": "st' + "." * 10_000)
    one.start()
    assert [line["step"] for line in lines(out)] == [0, 1, 2]
    one.publish(Step(run="r-1", step=3))
    one.write()
    assert [line["step"] for line in lines(out)] == [0, 1, 2, 3]
    one.stop()
    for path in out.iterdir():
        path.unlink()
    one.start()
    one.write()
    assert [line["step"] for line in lines(out)] == [0, 1, 2, 3]


def test_a_folder_that_served_another_journal_keeps_what_it_has(bus, tmp_path):
    """Its position means nothing here: all events of this journal are appended."""
    out = str(tmp_path / "out")
    first = bus(JsonlSink, directory=out)
    first.publish(*(Step(run="r-1", step=step) for step in range(5)))
    first.stop()
    second = bus(JsonlSink, directory=out)
    second.context.journal = "another"
    second.kill()
    second.start()
    second.publish(Step(run="r-1", step=5))
    second.write()
    assert [line["step"] for line in lines(tmp_path / "out")] == [0, 1, 2, 3, 4, 5]


def test_a_sink_that_takes_nothing_is_an_alert_and_holds_a_batch_in_memory(bus, tmp_path, monkeypatch):
    """Cleared when it takes events again; a restarted process repeats the alert's id."""
    monkeypatch.setattr("trainbus.plugins.sinks.outflow.FIRST_PAUSE", 0.0)
    one = bus(JsonlSink, directory=str(tmp_path / "out"), batch=2)
    one.publish(Step(run="r-1", step=1))
    broken = tmp_path / "out" / "r-1.jsonl"
    broken.mkdir()
    for _ in range(4):
        assert one.write() == 0.0
    (alert,) = one.context.published
    assert (alert.id, alert.state, alert.rule) == ("sink_failing:sink:-1", "raised", "sink_failing")
    assert one.stats.failures == 4
    one.commit()
    one.kill()
    one.start()
    broken.rmdir()
    one.write()
    assert [alert.state for alert in one.context.published] == ["raised", "cleared"]
    assert {alert.id for alert in one.context.published} == {"sink_failing:sink:-1"}
    assert one.stats.position == 0


def test_the_ledger_is_a_database_that_can_be_looked_at(bus, tmp_path):
    """For whoever wants to know how far a folder is."""
    one = bus(TensorboardSink, directory=str(tmp_path / "out"))
    one.publish(*story())
    one.write()
    database = sqlite3.connect(tmp_path / "out" / ledger.FILE)
    assert database.execute("SELECT journal, offset FROM position").fetchall() == [("memory", 10)]
    size = (tmp_path / "out" / "r-1" / FILE).stat().st_size
    assert database.execute("SELECT name, length FROM files").fetchall() == [(f"r-1/{FILE}", size)]
    database.close()
