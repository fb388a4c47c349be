"""A story that every sink is told, and a plugin host whose process can die."""

from __future__ import annotations

import copy
import math

import pytest

from trainbus.bus.events import Alert, Checkpoint, Eval, Heartbeat, Metric, RunEnded, RunStarted, Step
from trainbus.testing.context import MemoryContext, PluginHarness

START = 1_700_000_000_000_000_000


class Bus:
    """The journal and one sink's place in it. `kill` ends the sink's process as kill -9 does, and forgets its last commits."""

    def __init__(self, plugin, place, config):
        self._plugin, self._config = plugin, config
        self.context = MemoryContext(name="sink", directory=place)
        self.harness = None
        self.cursor = -1
        self._committed = (-1, {})

    def start(self):
        """A new process: state and cursor as they were committed last, events from there on."""
        self.context.state = copy.deepcopy(self._committed[1])
        self.harness = PluginHarness(self._plugin(), config=self._config, context=self.context)
        self.harness.start()
        for event in self.context.history[self._committed[0] + 1 :]:
            self._deliver(event)
        return self

    def publish(self, *feed):
        """Events come into the journal, and to the sink if it lives."""
        for event in feed:
            journaled = event.kind != "heartbeat"
            event.offset = len(self.context.history) if journaled else -1
            event.time = START + max(event.offset, 0) * 1_000_000_000
            event.source, event.seq = "trainer", event.offset
            if journaled:
                self.context.history.append(event)
            self._deliver(event)

    def _deliver(self, event):
        if self.harness is not None:
            self.harness._call("on_event", event=event)
            self.cursor = max(self.cursor, event.offset)

    def commit(self):
        """The host commits cursor and state."""
        self._committed = (self.cursor, copy.deepcopy(self.context.state))

    def write(self):
        """The timer."""
        return self.harness.every()

    def kill(self):
        """kill -9: nothing is said, nothing is written."""
        self.harness = None

    def stop(self):
        """An orderly end."""
        self.harness.stop()
        self.commit()
        self.harness = None

    @property
    def stats(self):
        return next(iter(self.harness.manager.get_plugins())).stats()


def story():
    """A run with a bit of everything; the loss is NaN at step 3."""
    return [
        RunStarted(run="r-1", name="r", config={"lr": 1e-4, "model": {"name": "tiny", "layers": 2}}),
        *(Step(run="r-1", step=step, metrics={"loss": math.nan if step == 3 else 1.0 / step, "lr": 1e-4}) for step in range(1, 6)),
        Heartbeat(run="r-1", step=5),
        Eval(run="r-1", step=5, dataset="gsm8k", metrics={"accuracy": 0.5}),
        Metric(run="r-1", name="temperature", value=math.inf, step=5),
        Alert(run="r-1", id="nan:r-1:3", rule="nan", severity="critical", step=3, message="The loss is NaN."),
        Checkpoint(run="r-1", id="r-1@5:abc", step=5, path="/tmp/checkpoint-5"),
        RunEnded(run="r-1", outcome="failed", step=5, exit_code=3, reason="NaN"),
    ]


@pytest.fixture
def bus(tmp_path):
    """``bus(PluginClass, key=value)``: started; further ones share nothing."""
    made = []

    def make(plugin, **config):
        one = Bus(plugin, tmp_path / f"plugin-{len(made)}", config)
        one.context.directory.mkdir(exist_ok=True)
        made.append(one)
        return one.start()

    yield make
    for one in made:
        if one.harness is not None:
            one.harness.stop()
