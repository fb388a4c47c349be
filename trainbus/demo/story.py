"""What happens in the demo while the model trains, and what is told of it.

The story is a reader like any other: it sees the training only through the bus. At its moments it acts as a person would: it kills a
plugin (the supervisor revives it), and sends two commands that make a learning-rate fault of some steps.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import TypeAlias

from trainbus.bus import events
from trainbus.bus.client import Client
from trainbus.bus.stream import Record
from trainbus.errors import TrainbusError

VICTIM = "retention"
KILL_AT, FAULT_AT = 0.3, 0.5
"""Parts of the training after which the plugin is killed and the learning rate goes wrong."""
FAULT_FACTOR = 15.0
FAULT_STEPS = 2
SPIKE_RULE = "loss_spike"

Tell: TypeAlias = Callable[[str, str], None]
"""``tell(mark, sentence)``: one line for the person who watches; the mark is its kind."""


class Story:
    """Watches events and acts.

    Args:
        client: Sends the commands.
        steps: Length of the training.
        learning_rate: What the fault multiplies, and goes back to.
        tell: Is told what happens.
    """

    def __init__(self, client: Client, steps: int, learning_rate: float, tell: Tell) -> None:
        self.run = ""
        self.step = 0
        self.loss: float | None = None
        self.ended: events.RunEnded | None = None
        self.delivered: list[Record] = []
        self.spike: events.Alert | None = None
        self.snapshot = ""
        self.victim_pid: int | None = None
        self.revived = False
        self.complete: list[str] = []
        self.deleted: list[str] = []
        self.accuracy: dict[str, float] = {}
        self.fault_step: int | None = None
        self._client = client
        self._steps = steps
        self._rate = learning_rate
        self._tell = tell
        self._mended = False

    def see(self, record: Record) -> None:
        """Take in one event."""
        self.delivered.append(record)
        event = events.decode(record[1], record[0])
        if isinstance(event, events.Step):
            self._see_step(event)
        elif isinstance(event, events.RunStarted):
            self.run = event.run
            self._tell("run", f"run {event.run} started by process {event.pid}")
        elif isinstance(event, events.Alert):
            self._see_alert(event)
        elif isinstance(event, events.Checkpoint):
            self._see_checkpoint(event)
        elif isinstance(event, events.Eval) and event.checkpoint:
            self.accuracy[event.checkpoint] = event.metrics.get("accuracy", 0.0)
            self._tell("inference", f"checkpoint of step {event.step} answers {self.accuracy[event.checkpoint]:.0%} of the questions right")
        elif isinstance(event, events.Plugin):
            self._see_plugin(event)
        elif isinstance(event, events.RunEnded):
            self.ended = event
            self._tell("run", f"run {event.outcome} at step {event.step}")

    def examined(self) -> bool:
        """Whether the newest checkpoint that still exists has been examined."""
        kept = [checkpoint for checkpoint in self.complete if checkpoint not in self.deleted]
        return bool(kept) and kept[-1] in self.accuracy

    def _see_step(self, event: events.Step) -> None:
        self.step, self.loss = event.step, event.metrics.get("loss")
        if self.victim_pid is None and event.step >= KILL_AT * self._steps:
            self._kill()
        if self.fault_step is None and event.step >= FAULT_AT * self._steps:
            self.fault_step = event.step
            self._tell("fault", f"learning rate set to {FAULT_FACTOR:g} times its value for {FAULT_STEPS} steps")
            self._set_rate(self._rate * FAULT_FACTOR)
        elif self.fault_step is not None and not self._mended and event.metrics.get("learning_rate", 0.0) > 2 * self._rate:
            self._mended = True  # the fault is in force; by the time that the command arrives it will have been for some steps
            self._set_rate(self._rate)

    def _see_alert(self, event: events.Alert) -> None:
        if event.state == "raised":
            self._tell("alert", f"{event.severity}: {event.message}")
        if event.rule == SPIKE_RULE and self.fault_step is not None and event.step is not None and event.step >= self.fault_step:
            self.spike = self.spike or event
            if not self.snapshot and (kept := event.evidence.get("snapshot")):
                self.snapshot = str(kept)
                self._tell("anomaly", f"snapshot of the last good checkpoint kept in {self.snapshot}")

    def _see_checkpoint(self, event: events.Checkpoint) -> None:
        if event.state == "complete":
            self.complete.append(event.id)
            self._tell("run", f"checkpoint of step {event.step} is complete")
        elif event.state == "deleted":
            self.deleted.append(event.id)
            self._tell("retention", f"checkpoint of step {event.step} deleted: {event.reason}")

    def _see_plugin(self, event: events.Plugin) -> None:
        if event.name == VICTIM and self.victim_pid is not None and event.state == "running" and event.pid not in (None, self.victim_pid):
            if not self.revived:
                self._tell("fault", f"plugin {VICTIM} is back as process {event.pid} and goes on where it was")
            self.revived = True

    def _kill(self) -> None:
        for plugin in self._client.supervise("plugins"):
            if plugin["name"] == VICTIM and plugin["pid"]:
                self.victim_pid = plugin["pid"]
                os.kill(plugin["pid"], signal.SIGKILL)
                self._tell("fault", f"plugin {VICTIM} (process {plugin['pid']}) killed with SIGKILL")

    def _set_rate(self, rate: float) -> None:
        try:
            self._client.command(self.run, "set", requested_by="demo", reason="a fault, for the demo", learning_rate=rate)
        except TrainbusError as error:
            self._tell("fault", f"the command was not taken: {error.problem}")


def wait(condition: Callable[[], bool], see: Callable[[float], None], seconds: float) -> bool:
    """Let the story go on until the condition holds; False after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        see(0.2)
    return True
