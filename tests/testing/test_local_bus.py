"""A real broker for one test, and plugins on it in processes of their own."""

from __future__ import annotations

import os

import pytest

import trainbus
from tests.hosting.conftest import site as site
from trainbus.errors import PluginError
from trainbus.testing import LocalBus

COUNTER = """
class P:
    @hookimpl
    def on_step(self, event, context):
        context.state["seen"] = [*context.state.get("seen", []), event.step]
        context.publish(events.Metric(name="seen", value=len(context.state["seen"]), step=event.step))
"""


def published(bus):
    return {(metric.step, metric.value) for metric in bus.events("metric")}


def test_a_plugin_that_is_killed_goes_on_where_it_was(trainbus_home, site):
    """SIGKILL and a second start: what comes again changes nothing, as in `crash_everywhere`, but for real."""
    site.install("counter", COUNTER)
    with LocalBus(trainbus_home) as bus, trainbus.init("r", run="r", root=bus.root) as run:
        first = bus.host("counter")
        first.wait_until_running()
        for step in range(1, 21):
            run.step(step)
        first.wait_for(lambda: (20, 20.0) in published(bus))
        first.kill()
        assert first.process.returncode == -9
        for step in range(21, 31):
            run.step(step)
        second = bus.host("counter")
        second.wait_for(lambda: (30, 30.0) in published(bus))
        assert published(bus) == {(step, float(step)) for step in range(1, 31)}
        assert second.stop() == 0


def test_a_plugin_that_is_refused_says_why(trainbus_home, site):
    """With the sentence of its handshake; a token of another bus in the environment leads nobody astray."""
    site.install("unfit", "class P:\n    @hookimpl\n    def on_setp(self): pass\n")
    os.environ["TRAINBUS_TOKEN"] = "elsewhere"
    try:
        with LocalBus(trainbus_home) as bus, bus.host("unfit") as host:
            with pytest.raises(PluginError, match="no hook named 'on_setp'"):
                host.wait_until_running()
            assert bus.head() == -1
        assert os.environ["TRAINBUS_TOKEN"] == "elsewhere"
    finally:
        del os.environ["TRAINBUS_TOKEN"]


def test_a_home_that_another_broker_has_is_refused_at_once(trainbus_home):
    """With the broker's own error."""
    with LocalBus(trainbus_home), pytest.raises(trainbus.TrainbusError, match="journal"), LocalBus(trainbus_home):
        pass
