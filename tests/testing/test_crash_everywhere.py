"""The crash helper lets good plugins pass and catches the three mistakes that authors make."""

import itertools

import pytest

from trainbus import hookimpl
from trainbus.bus.events import Alert, Metric
from trainbus.testing import crash_everywhere, recorded


class Sound:
    """Counts in its state; ids follow from the events."""

    @hookimpl
    def on_eval(self, event, context):
        context.state["count"] = context.state.get("count", 0) + 1
        context.publish(Alert(id=f"sound:{event.step}", step=event.step, message=f"evaluation {context.state['count']}"))


class CountsInMemory:
    """What it counts is gone after a crash."""

    def __init__(self):
        self.count = 0

    @hookimpl
    def on_step(self, event, context):
        self.count += 1
        if self.count % 50 == 0:
            context.publish(Metric(name="count", value=self.count, step=event.step))


class NewIds:
    """Each call makes an id of its own."""

    numbers = itertools.count()

    @hookimpl
    def on_eval(self, event, context):
        context.publish(Alert(id=f"alert-{next(self.numbers)}", step=event.step))


class KeepsFile:
    """Counts in a file of its own, which is not rolled back with the cursor."""

    @hookimpl
    def on_eval(self, event, context):
        file = context.directory / "count"
        count = int(file.read_text()) + 1 if file.exists() else 1
        file.write_text(str(count))
        context.publish(Alert(id=f"evaluation:{count}", step=event.step))


def test_a_plugin_that_keeps_the_rules_comes_through():
    """At each of forty places."""
    report = crash_everywhere(Sound, recorded("healthy"), crashes=40)
    assert report.ok, report.explain()
    assert (report.crashes, report.published) == (40, 10)
    assert "made no difference" in report.explain()


@pytest.mark.parametrize("plugin", [CountsInMemory, NewIds, KeepsFile])
def test_a_plugin_that_breaks_a_rule_is_caught(plugin):
    """And told where, what, and what to do."""
    report = crash_everywhere(plugin, recorded("healthy"), crashes=40)
    assert not report.ok
    assert "context.state" in report.explain()
    assert "crash at offset" in report.explain()
