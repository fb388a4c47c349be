"""Readers, scores and drawings of the backtest."""

import json
import math
import struct

import pytest

from tests.plugins.anomaly.feeding import configured, steps
from trainbus.bus.events import Eval, Step
from trainbus.bus.jsonable import to_json
from trainbus.errors import DataError
from trainbus.plugins.anomaly.backtest import plot, scoring
from trainbus.plugins.anomaly.backtest.findings import FoundLine, backtest
from trainbus.plugins.anomaly.backtest.labels import beside, read_labels
from trainbus.plugins.anomaly.detector import Detector
from trainbus.sources.histories import read


def test_a_csv_row_is_a_step_and_an_evaluation(tmp_path):
    """Empty cells were not logged; nan and inf are what they say; the epoch is no metric."""
    log = tmp_path / "a.csv"
    log.write_text(
        "step,epoch,loss,learning_rate,grad_norm,eval_loss,eval_accuracy\n1,0.1,2.5,1e-4,inf,,\n2,0.2,nan,,,2.4,0.5\n3,,,,,2.3,\n"
    )
    first, second, evaluation, last = read(log)
    assert (first.step, first.epoch, first.metrics) == (1, 0.1, {"loss": 2.5, "learning_rate": 1e-4, "grad_norm": math.inf})
    assert math.isnan(second.metrics["loss"])
    assert (evaluation.step, evaluation.metrics) == (2, {"loss": 2.4, "accuracy": 0.5})
    assert isinstance(last, Eval)


@pytest.mark.parametrize("form", ["trainer_state", "jsonl", "folder"])
def test_the_history_of_transformers_is_read(tmp_path, form):
    """From trainer_state.json, the folder that holds it, or one object a line; the closing summary is no step."""
    rows = [{"step": 10, "loss": 2.0, "epoch": 0.5}, {"step": 10, "eval_loss": 2.1}, {"step": 20, "loss": 1.9, "learning_rate": 1e-4}]
    if form == "jsonl":
        path = tmp_path / "log.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        path = tmp_path / "trainer_state.json"
        path.write_text(json.dumps({"log_history": [*rows, {"step": 20, "train_runtime": 9.0, "train_loss": 1.0}]}))
    made = list(read(tmp_path if form == "folder" else path))
    assert [(type(event), event.step) for event in made] == [(Step, 10), (Eval, 10), (Step, 20)]


def test_an_exported_run_comes_back_with_its_nan(tmp_path):
    """JSON has none; the flag beside it does."""
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"\n".join(to_json(event) for event in steps([1.0, math.nan])))
    assert math.isnan(list(read(path))[1].metrics["loss"])


def varint(value):
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def record(step, tag, value, *, tensor=False):
    """One event of a TensorBoard file with one scalar, as the format describes it."""
    content = b"\x08\x01" + b"\x22\x04" + struct.pack("<f", value) if tensor else b""
    number = b"\x42" + varint(len(content)) + content if tensor else b"\x15" + struct.pack("<f", value)
    inner = b"\x0a" + varint(len(tag)) + tag.encode() + number
    summary = b"\x0a" + varint(len(inner)) + inner
    body = b"\x09" + struct.pack("<d", 1.7e9 + step) + b"\x10" + varint(step) + b"\x2a" + varint(len(summary)) + summary
    return struct.pack("<QI", len(body), 0) + body + struct.pack("<I", 0)


def test_a_tensorboard_folder_is_read_without_tensorboard(tmp_path):
    """Simple values and tensors; a record that was torn by a kill ends the file."""
    file = tmp_path / "runs" / "events.out.tfevents.1.host"
    file.parent.mkdir()
    whole = record(1, "train/loss", 2.5) + record(1, "eval/loss", 2.25) + record(300, "train/loss", 1.5, tensor=True)
    file.write_bytes(whole + record(301, "train/loss", 1.0)[:-9])
    first, evaluation, second = read(tmp_path)
    assert (first.step, first.metrics, evaluation.metrics) == (1, {"loss": 2.5}, {"loss": 2.25})
    assert (second.step, second.metrics) == (300, {"loss": 1.5})
    assert second.time == int((1.7e9 + 300) * 1e9)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "", "empty"), ("a.jsonl", "{", "line 1"), ("a.jsonl", "[1]", "no JSON object"), ("a.json", "{}", "log_history"),
        ("a.xlsx", "x", "no known format"), ("events/x", "", "no TensorBoard"),
    ],
)  # fmt: skip
def test_what_can_not_be_read_is_named_with_its_place(tmp_path, name, content, said):
    """No traceback."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(DataError, match=said):
        list(read(path.parent if name == "events/x" else path))


def test_findings_are_what_the_detector_says_live():
    """Each alert's findings, once, in their last state."""
    feed = steps([1.0 + 0.001 * (n % 7) for n in range(40)] + [5.0] * 4 + [1.0 + 0.001 * (n % 7) for n in range(40)])
    detector = Detector(configured().active_rules())
    alerts = [alert for event in feed for alert in detector.feed(event)]
    (line,) = backtest("f", feed, configured())
    assert (line.alert, line.rule, line.message) == (alerts[0].id, "loss_spike", alerts[-1].evidence["message"])
    assert (line.severity, line.kind, line.step, line.start_step, line.end_step) == ("warning", "loss_spike", 41, 41, 44)


def line(step, *, kind="loss_spike", severity="warning", alert="a"):
    return FoundLine(
        file="f", run="r", alert=alert, rule=kind, kind=kind, metric="loss", severity=severity, step=step, start_step=step, end_step=step,
        score=1.0, message="m",
    )  # fmt: skip


def scored(found, *labels, steps=range(0, 1000, 10)):
    return scoring.score(scoring.LabelledRun("f", tuple(labels), "g"), found, list(steps))


def test_a_finding_counts_inside_the_interval_and_a_little_later():
    """Two logged points or 2 % of the run after its start, whichever is more."""
    label = scoring.Label("loss_spike", 500, 500, "high")
    for step, hit in ((490, False), (500, True), (520, True), (530, False)):
        one = scored([line(step)], label)
        assert (one.hits[0].delay_steps is not None, len(one.false)) == (hit, 0 if hit else 1)
    assert scored([line(520)], label).hits[0].delay_points == 2


def test_notes_are_not_scored_and_low_labels_are_neither_right_nor_wrong():
    """Several findings of one alert are one false alarm."""
    low = scoring.Label("loss_spike", 100, 100, "low")
    one = scored([line(100), line(300, severity="info"), line(400), line(410), line(500, alert="b")], low)
    whole = scoring.total([one])
    assert (whole.labels, whole.false_alerts, whole.quiet_points) == ({}, 2, 99)
    assert whole.false_in_10000 == pytest.approx(1e4 * 2 / 99)


def test_another_kind_counts_for_recall_and_not_for_the_strict_one():
    """Both are told."""
    whole = scoring.total([scored([line(500, kind="divergence")], scoring.Label("loss_spike", 500, 510, "medium"))])
    assert (whole.recall("medium"), whole.recall("medium", strict=True), whole.recall("high")) == (1.0, 0.0, None)
    assert whole.precision == 1.0


def test_labels_are_found_beside_the_logs_and_checked(tmp_path):
    """A text in place of a list is no label; a wrong one is named."""
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps({"runs": [{"file": "a.csv", "repo": "x/y", "labels": "healthy"}, {"file": "b.csv", "labels": []}]}))
    assert beside([tmp_path / "a.csv"]) == file
    assert read_labels(file)["a.csv"] == scoring.LabelledRun("a.csv", (), "x/y")
    for wrong in ({"kind": "nan"}, {"kind": "nan", "start_step": 1, "end_step": 2, "confidence": "sure"}, 5):
        file.write_text(json.dumps({"runs": [{"file": "a.csv", "labels": [wrong]}]}))
        with pytest.raises(DataError, match=r"a\.csv"):
            read_labels(file)


def test_the_drawing_is_one_file_that_keeps_every_extreme(tmp_path):
    """Nothing is fetched from anywhere."""
    values = [1.0 + 0.001 * (n % 7) for n in range(20_000)]
    values[10_000] = 7.0
    feed = steps(values)
    chart = plot.Chart("a < b")
    chart.note(feed)
    plot.write(tmp_path / "x.html", [(chart, backtest("f", feed, configured()))])
    text = (tmp_path / "x.html").read_text()
    assert "a &lt; b" in text
    assert "loss_spike" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert (10_001, 7.0) in plot._thin(chart.series["loss"], 1_000)
    assert len(plot._thin(chart.series["loss"], 1_000)) <= 4_000
    with pytest.raises(DataError, match=r"\.html"):
        plot.write(tmp_path / "x.gif", [(chart, [])])
