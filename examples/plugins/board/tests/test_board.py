"""What TensorBoard itself reads from the files is what the run published."""

import math

import pytest
from trainbus_board import Board
from trainbus_board.plugin import folder

from trainbus.bus.events import Metric, Step
from trainbus.testing import FakeTrainer, check_plugin, recorded

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def read(directory):
    """Points by tag, as TensorBoard reads them."""
    accumulator = event_accumulator.EventAccumulator(str(directory), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {tag: [(point.step, point.value) for point in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def test_every_point_of_a_run_is_there(trainbus_bus, tmp_path):
    """Steps, evaluations and named series, NaN included."""
    trainbus_bus.add(Board, name="board", config={"directory": str(tmp_path / "boards")})
    FakeTrainer(trainbus_bus.run("r"), steps=40, fault="nan", at=30).train()
    points = read(tmp_path / "boards" / "r")
    losses = [(event.step, event.metrics["loss"]) for event in trainbus_bus.events("step")]
    assert [step for step, _ in points["train/loss"]] == [step for step, _ in losses]
    assert [value for _, value in points["train/loss"][:29]] == pytest.approx([loss for _, loss in losses[:29]])
    assert math.isnan(points["train/loss"][-1][1])
    assert [step for step, _ in points["validation/loss"]] == [20, 40]


def test_the_timer_puts_points_on_disk_while_the_run_goes_on(trainbus_bus, tmp_path):
    """Other plugins' series too."""
    harness = trainbus_bus.add(Board, name="board")
    trainbus_bus.publish(Metric(run="r", name="perplexity", value=2.5, step=3))
    trainbus_bus.publish(Metric(run="r", name="no step", value=1.0))
    trainbus_bus.publish(Step(run="r", step=4, rank=1, metrics={"loss": 1.0}))
    trainbus_bus.advance(10.0)
    assert read(harness.context.directory / "r") == {"perplexity": [(3, 2.5)]}


@pytest.mark.parametrize("run", ["../../etc", "/tmp/x", "...", "a b/c"])
def test_no_run_s_name_leads_out_of_the_folder(trainbus_harness, run):
    """Names come from whoever publishes."""
    context = trainbus_harness(Board()).context
    assert folder(context, run).parent == context.directory


def test_after_a_crash_points_may_be_there_twice_but_none_is_missing(trainbus_bus, tmp_path):
    """At least once: a new process writes on, into the same folder."""
    history = recorded("healthy")[:60]
    for part in (history[:40], history[35:]):
        harness = trainbus_bus.add(Board, name="board", config={"directory": str(tmp_path / "boards")})
        for event in part:
            harness.handle(event)
        trainbus_bus.remove("board")
    steps = [event.step for event in history if event.kind == "step"]
    assert sorted({step for step, _ in read(tmp_path / "boards" / "run-1")["train/loss"]}) == steps


def test_trainbus_takes_it():
    """Importing it does not import tensorboard."""
    report = check_plugin("board", history="spike")
    assert report.ok, report.explain()
    assert not any("tensorboard" in finding.found for finding in report.findings if finding.check == "import")
