"""The bus hears of what matters about plugins, once."""

from trainbus.bus.events import Alert, Plugin
from trainbus.bus.hosting.announcer import Announcer
from trainbus.bus.wire import PluginStatus


def status(state="running", **facts):
    return PluginStatus(name="p", state=state, pid=1, **facts)


def test_each_change_of_state_is_one_event():
    """The same state again is none."""
    announcer = Announcer()
    assert [type(event) for event in announcer.observe(status("starting"))] == [Plugin]
    assert [event.state for event in announcer.observe(status())] == ["running"]
    assert announcer.observe(status()) == []


def test_lag_counts_by_its_order_of_magnitude():
    """A plugin that reads all events would otherwise lag behind the events about its lag."""
    announcer = Announcer()
    announcer.observe(status(lag=0))
    assert announcer.observe(status(lag=999)) == []
    assert len(announcer.observe(status(lag=5_000))) == 1
    assert announcer.observe(status(lag=9_000)) == []


def test_a_parked_plugin_raises_one_alert_that_is_cleared_when_it_runs():
    """With the same id, so that a repeat changes nothing."""
    announcer = Announcer()
    raised = [event for event in announcer.observe(status("failed", error="bad hook")) if isinstance(event, Alert)]
    assert [(alert.rule, alert.state, alert.severity) for alert in raised] == [("plugin_failed", "raised", "critical")]
    assert "bad hook" in raised[0].message
    assert not [event for event in announcer.observe(status("starting")) if isinstance(event, Alert)]
    cleared = [event for event in announcer.observe(status()) if isinstance(event, Alert)]
    assert [(alert.id, alert.state) for alert in cleared] == [(raised[0].id, "cleared")]
