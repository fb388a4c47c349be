"""The bus in memory does what the real one does: order, everybody gets everything, commands, timers."""

import pytest

from trainbus import hookimpl
from trainbus.bus.events import Alert, Metric, Step
from trainbus.testing import FakeTrainer, MemoryBus


class Echo:
    """Publishes a metric for each step, and an alert for each of its own metrics: from a plain hook and from a coroutine."""

    @hookimpl
    def on_step(self, event, context):
        context.publish(Metric(name="echo", value=1.0, step=event.step))

    @hookimpl
    async def on_metric(self, event, context):
        context.publish(Alert(id=f"echo:{event.step}", step=event.step))


class Watcher:
    """Writes down what it is given."""

    def __init__(self):
        self.seen = []

    @hookimpl
    def on_event(self, event):
        self.seen.append((event.offset, event.kind))


class Pauser:
    """Pauses a run at step 3; resumes it from its timer."""

    @hookimpl
    def on_step(self, event, context):
        if event.step == 3:
            context.command(event.run, "pause", reason="look")
            context.state["paused"] = event.run

    @hookimpl
    def every(self, context):
        if run := context.state.pop("paused", ""):
            context.command(run, "resume")
        return 10.0


class Starter:
    """Publishes from start, and from a timer that is called once."""

    @hookimpl
    def start(self, context):
        context.publish(Metric(name="started", value=1.0))

    @hookimpl
    async def every(self, context):
        context.publish(Metric(name="timer", value=1.0))


def test_what_one_plugin_publishes_every_plugin_gets_in_the_order_of_offsets():
    """Also what a hook publishes while another event is being handled; nobody gets anything twice."""
    with MemoryBus() as bus:
        watcher = Watcher()
        bus.add(watcher, name="watcher")
        bus.add(Echo, name="echo")
        for step in range(3):
            bus.publish(Step(run="r", step=step))
        assert watcher.seen == [(event.offset, event.kind) for event in bus.journal]
        assert [offset for offset, _ in watcher.seen] == list(range(9))
        assert [alert.id for alert in bus.events("alert")] == ["echo:0", "echo:1", "echo:2"]
        assert {alert.run for alert in bus.events("alert")} == {"r"}
        assert bus.stats().events == 9


def test_hooks_are_called_one_at_a_time_never_one_within_another():
    """As in a plugin host: what a hook publishes is handed out when it has returned, to other plugins as to itself."""
    calls = []

    class Nested:
        def __init__(self, name):
            self.name = name

        @hookimpl
        def start(self, context):
            self.publish(context, "start")

        @hookimpl
        def on_step(self, event, context):
            self.publish(context, "step")

        @hookimpl
        async def on_metric(self, event, context):
            calls.append((self.name, "metric", "begins"))
            calls.append((self.name, "metric", "ends"))

        def publish(self, context, hook):
            calls.append((self.name, hook, "begins"))
            context.publish(Metric(name=self.name, value=1.0))
            calls.append((self.name, hook, "ends"))

    with MemoryBus() as bus:
        bus.add(Nested("a"), name="a")
        bus.add(Nested("b"), name="b")
        bus.publish(Step(run="r", step=1))
    assert len(calls) == 24
    assert [call[:2] for call in calls[::2]] == [call[:2] for call in calls[1::2]]
    assert {call[2] for call in calls[::2]} == {"begins"}


def test_a_plugin_that_comes_late_gets_the_history_first():
    """As a new consumer on the real bus."""
    with MemoryBus() as bus:
        bus.publish(Step(run="r", step=1))
        bus.add(Starter, name="starter")
        watcher = Watcher()
        bus.add(watcher, name="watcher")
        bus.publish(Step(run="r", step=2))
        assert watcher.seen == [(0, "step"), (1, "metric"), (2, "metric"), (3, "step")]


def test_a_plugin_steers_a_run_and_its_timer_follows_the_clock():
    """A command reaches the fake trainer, its answer the journal; time passes only when it is told to."""
    with MemoryBus() as bus:
        pauser = bus.add(Pauser, name="pauser")
        trainer = FakeTrainer(bus.run("r"), steps=6, clock=bus.clock)
        assert trainer.train() == 3
        assert trainer.state == "paused"
        bus.advance(5.0)
        assert pauser.context.commands[-1].verb == "pause"
        bus.advance(9.0)
        assert trainer.train() == 6
        assert [result.state for result in bus.events("command_result")] == ["done", "done"]
        assert trainer.stats().commands == 2
        assert bus.events("run_ended")[0].outcome == "completed"


def test_what_a_hook_raises_reaches_the_test_and_the_bus_goes_on():
    """Nothing is swallowed, and the next event is handed out as ever."""

    class Fussy:
        @hookimpl
        def on_step(self, event):
            if event.step == 1:
                raise ValueError("no")

    with MemoryBus() as bus:
        watcher = Watcher()
        bus.add(Fussy, name="fussy")
        bus.add(watcher, name="watcher")
        with pytest.raises(ValueError, match="no"):
            bus.publish(Step(run="r", step=1))
        bus.publish(Step(run="r", step=2))
        assert [offset for offset, _ in watcher.seen] == [0, 1]


def test_a_timer_that_never_lets_time_pass_is_named():
    """Instead of hanging."""

    class Busy:
        @hookimpl
        def every(self):
            return 0.0

    bus = MemoryBus()
    with pytest.raises(RuntimeError, match="timer of busy"):
        bus.add(Busy, name="busy")


def test_events_carry_the_time_of_the_clock():
    """So that a plugin that goes by stamped times can be tested in no time."""
    with MemoryBus() as bus:
        first = bus.clock.wall()
        bus.publish(Step(run="r", step=1))
        bus.advance(3600.0)
        bus.publish(Step(run="r", step=2))
        assert [event.time - first for event in bus.journal] == [0, 3600 * 10**9]
