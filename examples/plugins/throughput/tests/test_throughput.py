"""The rule with numbers, the plugin with events, both through crashes and a real start."""

import pytest
from trainbus_throughput import Throughput
from trainbus_throughput.rule import WINDOW, remember, slow

from trainbus.bus.events import Step
from trainbus.testing import check_plugin, crash_everywhere, recorded


def stalling():
    """The healthy recorded run, but at a quarter of its speed from step 100 to 119."""
    history = recorded("healthy")
    for event in history:
        if isinstance(event, Step) and 100 <= event.step < 120:
            event.metrics["tokens_per_second"] /= 4
    return history


def test_nothing_is_slow_before_the_usual_speed_is_known():
    """Half of the window must be there."""
    assert not slow([100.0] * (WINDOW // 2 - 1), 1.0, 0.5)
    assert slow([100.0] * (WINDOW // 2), 49.0, 0.5)
    assert not slow([100.0] * (WINDOW // 2), 51.0, 0.5)


def test_memory_is_bounded():
    """However long the run is."""
    before = []
    for speed in range(10 * WINDOW):
        before = remember(before, float(speed))
    assert len(before) == WINDOW


def test_a_slow_stretch_is_told_once_and_cleared(trainbus_harness):
    """At its fifth step, and when it ends."""
    published = trainbus_harness(Throughput()).feed(*stalling())
    assert [(alert.state, alert.step) for alert in published] == [("raised", 104), ("cleared", 120)]
    assert {alert.id for alert in published} == {"throughput:run-1:100"}


@pytest.mark.parametrize("name", ["healthy", "nan", "steered"])
def test_runs_at_their_usual_speed_are_left_alone(trainbus_harness, name):
    """Whatever else happens to them."""
    harness = trainbus_harness(Throughput())
    assert harness.feed(*recorded(name)) == []
    assert harness.context.state == {}


def test_crashes_change_nothing():
    """Also in the middle of the slow stretch."""
    report = crash_everywhere(Throughput, stalling(), crashes=40)
    assert report.published == 2
    assert report.ok, report.explain()


def test_trainbus_takes_it():
    """Installed, started by a real plugin host, fed with a recorded run, stopped."""
    report = check_plugin("throughput", history="healthy")
    assert report.ok, report.explain()
