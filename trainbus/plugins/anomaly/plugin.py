"""The hooks of the anomaly plugin: feed the detector, publish its alerts, keep a checkpoint when one is raised."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import msgspec

from trainbus.bus import events
from trainbus.errors import TrainbusError
from trainbus.hookspecs import Context, LeaseRefusedError, hookimpl
from trainbus.plugins.anomaly.config import AnomalyConfig
from trainbus.plugins.anomaly.detector import Detector
from trainbus.plugins.anomaly.incidents import PLUGIN
from trainbus.plugins.anomaly.memory import Kept, RunMemory
from trainbus.plugins.anomaly.snapshot import keep, snapshot_path

RUN_KEY = "run/"


class AnomalyPlugin:
    """Alerts on non-finite values, spikes and outliers; announces new best models; snapshots the checkpoint before an incident.

    Snapshots follow from the plugin's own alerts as they come back over the bus: such an alert is durable, so a kill in the middle
    of a snapshot brings it again, and reading steps never waits for a disk.
    """

    def __init__(self) -> None:
        self.config = AnomalyConfig()
        self.detector = Detector(self.config.rules)

    @hookimpl
    def config_schema(self) -> type[msgspec.Struct]:
        """``[plugin.anomaly]``."""
        return AnomalyConfig

    @hookimpl
    def start(self, context: Context) -> None:
        """Take the memory of all runs back."""
        self.config = context.config
        self.detector = Detector(self.config.rules)
        for key in [key for key in context.state if key.startswith(RUN_KEY)]:
            try:
                self.detector.load(key.removeprefix(RUN_KEY), context.state[key])
            except (msgspec.DecodeError, TypeError) as error:
                context.logger.warning("What was known of run %s can't be read and starts anew: %s", key.removeprefix(RUN_KEY), error)
                del context.state[key]

    @hookimpl
    def on_run_started(self, event: events.RunStarted, context: Context) -> None:
        """A new process: baselines start anew, bests stay."""
        self._feed(event, context)

    @hookimpl
    def on_run_ended(self, event: events.RunEnded, context: Context) -> None:
        """Open incidents of the run are cleared."""
        self._feed(event, context)

    @hookimpl
    def on_step(self, event: events.Step, context: Context) -> None:
        """Judge a step's metrics."""
        self._feed(event, context)

    @hookimpl
    def on_eval(self, event: events.Eval, context: Context) -> None:
        """Judge an evaluation's metrics."""
        self._feed(event, context)

    @hookimpl
    def on_metric(self, event: events.Metric, context: Context) -> None:
        """Judge a point of a named series."""
        self._feed(event, context)

    @hookimpl
    def on_checkpoint(self, event: events.Checkpoint, context: Context) -> None:
        """Remember what could be kept."""
        self._feed(event, context)

    @hookimpl
    async def on_alert(self, event: events.Alert, context: Context) -> None:
        """Keep the last complete checkpoint before an incident of ours; its place becomes evidence of the alert."""
        wanted = self.config.snapshot
        if not wanted.enabled or event.plugin != PLUGIN or event.state != "raised" or event.step is None:
            return
        if event.severity not in wanted.severities and event.rule not in wanted.rules:
            return
        memory = self.detector.runs.get(event.run)
        checkpoint = memory.checkpoint_before(event.step, socket.gethostname()) if memory else None
        if memory is None or checkpoint is None:
            context.logger.info("Nothing to snapshot for %s: no complete checkpoint before step %s is on this host.", event.id, event.step)
            return
        try:
            metadata = _metadata(event, memory, checkpoint, self.config)  # here, not in the thread: other hooks change the memory
            evidence: dict[str, Any] = {"snapshot": await asyncio.to_thread(self._snapshot, event, metadata, checkpoint, context)}
        except (TrainbusError, LeaseRefusedError, OSError) as error:  # refused, leased for deletion, no broker, a bad disk
            reason = error.problem if isinstance(error, TrainbusError) else str(error)
            context.logger.warning("No snapshot of %s for %s: %s", checkpoint.id, event.id, reason)
            evidence = {"snapshot_refused": reason}
        evidence["snapshot_of"] = checkpoint.id
        state = self.detector.annotate(event.run, event.id, **evidence)
        context.state[RUN_KEY + event.run] = self.detector.dump(event.run)
        context.publish(_updated(event, state, evidence))

    def _feed(self, event: events.AnyEvent, context: Context) -> None:
        for alert in self.detector.feed(event):
            context.publish(alert)
        context.state[RUN_KEY + event.run] = self.detector.dump(event.run)
        for run in self.detector.forget_oldest():
            context.state.pop(RUN_KEY + run, None)

    def _snapshot(self, alert: events.Alert, metadata: dict[str, Any], checkpoint: Kept, context: Context) -> str:
        target = snapshot_path(alert, checkpoint, self.config.snapshot.directory)
        with context.lease(checkpoint.id, mode="shared", reason=f"snapshot for {alert.rule}"):
            return str(keep(checkpoint, target, metadata, min_free_bytes=self.config.snapshot.min_free_bytes))


def _metadata(alert: events.Alert, memory: RunMemory, checkpoint: Kept, config: AnomalyConfig) -> dict[str, Any]:
    return {
        "run": alert.run,
        "time": alert.time,
        "step": alert.step,
        "reason": alert.message,
        "alert": {"id": alert.id, "rule": alert.rule, "severity": alert.severity, "evidence": alert.evidence},
        "open_alerts": sorted(incident.id for incident in memory.open.values()),
        "checkpoint": {"id": checkpoint.id, "step": checkpoint.step, "path": checkpoint.path},
        "history": {metric: [list(point) for point in points] for metric, points in memory.history.items()},
        "best": {metric: {"step": step, "value": value} for metric, (step, value) in memory.lowest.items()},
        "config": msgspec.to_builtins(config),
    }


def _updated(alert: events.Alert, state: events.AlertState, evidence: dict[str, Any]) -> events.Alert:
    return events.Alert(
        run=alert.run,
        time=alert.time,
        id=alert.id,
        rule=alert.rule,
        category=alert.category,
        severity=alert.severity,
        state=state,
        step=alert.step,
        message=alert.message,
        evidence=alert.evidence | evidence,
        advice=alert.advice,
        plugin=PLUGIN,
    )
