"""Each panel finds its fields in real events, and the computed series is right."""

import math

import msgspec
import pytest
from trainbus_glance import Glance

from trainbus.bus.events import Eval
from trainbus.testing import FakeTrainer, check_plugin, crash_everywhere, recorded


def value(event, path):
    """What stands at a dotted path of an event."""
    found = msgspec.structs.asdict(event)
    for part in path.split("."):
        found = found[part]
    return found


def test_every_panel_finds_its_fields_in_the_events_of_a_run(trainbus_bus):
    """A path that is misspelt would be an empty panel."""
    trainbus_bus.add(Glance, name="glance")
    FakeTrainer(trainbus_bus.run("r"), steps=40).train()
    for panel in Glance().web_panels():
        event = trainbus_bus.events(panel.events)[-1]
        for path in panel.fields:
            assert value(event, path) is not None, f"{panel.id}: {path}"


def test_perplexity_is_the_exponential_of_the_loss(trainbus_harness):
    """NaN, and what would overflow, is left out."""
    harness = trainbus_harness(Glance(), config={"dataset": "validation"})
    losses = {1: 0.0, 2: 2.0, 3: math.nan, 4: 1e6}
    published = harness.feed(*(Eval(run="r", step=step, dataset="validation", metrics={"loss": loss}) for step, loss in losses.items()))
    published += harness.feed(Eval(run="r", step=5, dataset="other", metrics={"loss": 1.0}))
    assert [(metric.name, metric.step) for metric in published] == [("perplexity", 1), ("perplexity", 2)]
    assert [metric.value for metric in published] == pytest.approx([1.0, math.exp(2.0)])


def test_crashes_change_nothing():
    """It keeps nothing."""
    report = crash_everywhere(Glance, recorded("overfit"))
    assert report.ok, report.explain()
    assert report.published == 10


def test_trainbus_takes_it():
    """Its panels too: their kinds and fields are known."""
    report = check_plugin("glance", history="overfit")
    assert report.ok, report.explain()
    assert "rate, perplexity, checkpoints" in [finding.found for finding in report.findings if finding.check == "panels"]
