"""The hooks of the anomaly plugin: feed the detector, publish what it says, act on it, keep checkpoints."""

from __future__ import annotations

import asyncio
import socket
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from trainbus.bus import events
from trainbus.bus.jsonable import to_json
from trainbus.errors import TrainbusError
from trainbus.hookspecs import Context, LeaseRefusedError, hookimpl
from trainbus.plugins.anomaly.actions import decide
from trainbus.plugins.anomaly.config import AnomalyConfig
from trainbus.plugins.anomaly.detector import Detector
from trainbus.plugins.anomaly.evidence import metadata_of
from trainbus.plugins.anomaly.incidents import PLUGIN
from trainbus.plugins.anomaly.keeping import clean, is_due
from trainbus.plugins.anomaly.memory import Following, Kept, RunMemory, encode
from trainbus.plugins.anomaly.snapshot import add_events, keep, snapshot_path, snapshot_root

if TYPE_CHECKING:
    import click

RUN_KEY = "run/"
DAILY_KEY = "daily/"
TIMER = 60.0
"""Seconds between two looks at the clock."""
MAX_FOLLOWING = 16
"""Snapshots of a run that wait for the events after their alert."""


class AnomalyPlugin:
    """Alerts on what goes wrong in a run, running figures, snapshots of the checkpoint before an incident, actions.

    Snapshots follow from the plugin's own alerts as they come back over the bus: such an alert is durable, so a kill in the middle
    of a snapshot brings it again, and reading steps never waits for a disk.
    """

    def __init__(self) -> None:
        self.config = AnomalyConfig()
        self.detector = Detector(self.config.active_rules())
        self.host = socket.gethostname()
        self._stored: set[str] = set()

    @hookimpl
    def config_schema(self) -> type[msgspec.Struct]:
        """``[plugin.anomaly]``."""
        return AnomalyConfig

    @hookimpl
    def cli_commands(self) -> list[click.Command]:
        """``trainbus anomaly snapshots|verify|clean``."""
        from trainbus.plugins.anomaly import commands  # click is no part of a plugin's process

        return [commands.list_command, commands.verify_command, commands.clean_command]

    @hookimpl
    def start(self, context: Context) -> None:
        """Take the memory of all runs back."""
        self.config = context.config
        self.detector = Detector(self.config.active_rules())
        self._stored.clear()
        for key in [key for key in context.state if key.startswith(RUN_KEY)]:
            try:
                self.detector.load(key.removeprefix(RUN_KEY), context.state[key])
            except (msgspec.DecodeError, msgspec.ValidationError, TypeError) as error:
                context.logger.warning("What was known of run %s can't be read and starts anew: %s", key.removeprefix(RUN_KEY), error)
                del context.state[key]

    @hookimpl
    def on_run_started(self, event: events.RunStarted, context: Context) -> None:
        """A new process: baselines start anew, bests stay."""
        self._feed(event, context)

    @hookimpl
    async def on_run_ended(self, event: events.RunEnded, context: Context) -> None:
        """Open incidents of the run are cleared; what snapshots still lack does not come any more."""
        self._feed(event, context)
        await self._follow(event.run, context, over=True)
        context.state[RUN_KEY + event.run] = encode(self.detector.runs[event.run])  # bytes are not compared at every commit
        self._stored.discard(event.run)

    @hookimpl
    def on_phase(self, event: events.Phase, context: Context) -> None:
        """Evaluating and saving are no stalls."""
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
    def on_sample(self, event: events.Sample, context: Context) -> None:
        """Judge an answer by its own loss."""
        self._feed(event, context)

    @hookimpl
    def on_metric(self, event: events.Metric, context: Context) -> None:
        """Judge a point of a named series."""
        self._feed(event, context)

    @hookimpl
    def on_system(self, event: events.System, context: Context) -> None:
        """Judge the memory of a machine."""
        self._feed(event, context)

    @hookimpl
    def on_heartbeat(self, event: events.Heartbeat, context: Context) -> None:
        """A run that lives but takes no step stands still."""
        if event.run in self.detector.runs:
            self._feed(event, context)

    @hookimpl
    def on_job(self, event: events.Job, context: Context) -> None:
        """A new data file has a level of its own."""
        if event.run in self.detector.runs:
            self._feed(event, context)

    @hookimpl
    async def on_checkpoint(self, event: events.Checkpoint, context: Context) -> None:
        """Remember what could be kept; keep it, when an incident waits for the next one."""
        self._feed(event, context)
        memory = self.detector.runs[event.run]
        if event.state != "complete" or event.host != self.host or not memory.wanted:
            return
        for alert in [one for one in memory.wanted.values() if one.step is not None and one.step <= event.step]:
            await self._keep(alert, memory, Kept(event.id, event.step, event.path, event.host), context, after=True)
            memory.wanted.pop(alert.id, None)

    @hookimpl
    async def on_alert(self, event: events.Alert, context: Context) -> None:
        """Keep the last complete checkpoint before an incident of ours; its place becomes evidence of the alert."""
        wanted = self.config.snapshot
        if not wanted.enabled or event.plugin != PLUGIN or event.state == "cleared" or event.step is None:
            return
        memory = self.detector.runs.get(event.run)
        if memory is None or event.id in memory.kept or not self._worth_keeping(event):
            return
        checkpoint = memory.checkpoint_before(event.step, self.host)
        if checkpoint is None:
            context.logger.info("Nothing to snapshot for %s: no complete checkpoint before step %s is on this host.", event.id, event.step)
            return
        if wanted.next:
            memory.wanted[event.id] = event
        await self._keep(event, memory, checkpoint, context)

    @hookimpl
    async def every(self, context: Context) -> float | None:
        """The daily snapshot, and old ones are cleaned away; looks at the clock once a minute."""
        wanted = self.config.snapshot
        if not wanted.enabled:
            return None
        now = datetime.now().astimezone()
        for run, memory in list(self.detector.runs.items()):
            await self._follow(run, context)
            if not is_due(wanted.daily, now, context.state.get(DAILY_KEY + run, "")):
                continue
            newest = max((one for one in memory.checkpoints if one.host == self.host), key=lambda one: one.step, default=None)
            if newest is None or memory.ended:
                continue
            alert = events.Alert(
                run=run, time=int(now.timestamp() * 1e9), id=f"daily:{run}:{now.date()}", rule="daily", severity="info", step=newest.step,
                message=f"Daily snapshot of {now.date()}.", plugin=PLUGIN,
            )  # fmt: skip
            await self._keep(alert, memory, newest, context)
            context.state[DAILY_KEY + run] = now.date().isoformat()
        if wanted.keep_days:
            roots = {
                snapshot_root(one, wanted.directory)
                for memory in self.detector.runs.values()
                for one in memory.checkpoints
                if one.host == self.host
            }
            for root in roots:
                for removed in await asyncio.to_thread(clean, root, days=wanted.keep_days):
                    context.logger.info("Removed the old snapshot %s.", removed.path)
        return TIMER

    def _worth_keeping(self, alert: events.Alert) -> bool:
        wanted = self.config.snapshot
        return alert.severity in wanted.severities or not set(wanted.rules).isdisjoint(alert.evidence.get("rules", [alert.rule]))

    async def _keep(self, alert: events.Alert, memory: RunMemory, checkpoint: Kept, context: Context, *, after: bool = False) -> None:
        """One snapshot; where it is, or why there is none, is told in an update of the alert."""
        name = "snapshot_after" if after else "snapshot"
        evidence: dict[str, Any]
        try:
            # Here and not in the thread: other hooks change the memory meanwhile.
            metadata = msgspec.to_builtins(metadata_of(alert, memory, checkpoint, self.config, {}))
            evidence = {name: await asyncio.to_thread(self._snapshot, alert, metadata, checkpoint, context, after)}
        except (TrainbusError, LeaseRefusedError, OSError) as error:  # refused, leased for deletion, no broker, a bad disk
            reason = error.problem if isinstance(error, TrainbusError) else str(error)
            context.logger.warning("No snapshot of %s for %s: %s", checkpoint.id, alert.id, reason)
            evidence = {f"{name}_refused": reason}
        evidence[f"{name}_of"] = checkpoint.id
        memory.note_kept(alert.id)
        wanted = self.config.snapshot
        if "snapshot" in evidence and alert.offset >= 0 and wanted.events_after:
            memory.following = [
                *memory.following,
                Following(evidence["snapshot"], alert.offset - wanted.events, alert.offset, wanted.events_after),
            ][-MAX_FOLLOWING:]
        if alert.rule == "daily":
            context.logger.info("Daily snapshot of %s: %s", checkpoint.id, evidence)
            return
        state = self.detector.annotate(alert.run, alert.id, **evidence)
        self._store(alert.run, context)
        context.publish(_updated(alert, state, evidence))

    def _snapshot(self, alert: events.Alert, metadata: dict[str, Any], checkpoint: Kept, context: Context, after: bool) -> str:
        wanted = self.config.snapshot
        target = snapshot_path(alert, checkpoint, wanted.directory, after=after)
        around = self._around(context, alert.run, alert.offset - wanted.events, alert.offset, 0) if wanted.events else b""
        for event in context.query(kinds=["run_started"], runs=[alert.run]):
            if isinstance(event, events.RunStarted):
                metadata["run_config"] = event.config
        with context.lease(checkpoint.id, mode="shared", reason=f"snapshot for {alert.rule}"):
            return str(keep(checkpoint, target, metadata, around, min_free_bytes=wanted.min_free_bytes))

    @staticmethod
    def _around(context: Context, run: str, first: int, alert: int, after: int) -> bytes:
        """Events of a run about an offset as JSON lines: from ``first`` up to the alert, and so many after it."""
        if alert < 0:
            return b""  # not from the journal: the daily one
        before = context.query(runs=[run], after=max(first, 0) - 1, upto=alert)
        later = islice(context.query(runs=[run], after=alert), after)
        return b"".join(to_json(event) + b"\n" for event in chain(before, later))

    async def _follow(self, run: str, context: Context, *, over: bool = False) -> None:
        """Add the events after the alert to the snapshots for which they are there now, or (the run is over) never will be."""
        memory = self.detector.runs.get(run)
        if memory is None:
            return
        after = self.config.snapshot.events_after
        for one in [one for one in memory.following if one.left <= 0 or over or memory.ended]:
            try:
                around = await asyncio.to_thread(self._around, context, run, one.first, one.alert, after)
                await asyncio.to_thread(add_events, Path(one.path), around)
            except (TrainbusError, OSError) as error:  # no broker, a full disk: at the next look
                context.logger.warning("The events after the alert can't be added to %s yet: %s", one.path, error)
                continue
            memory.following.remove(one)
            self._store(run, context)

    def _feed(self, event: events.AnyEvent, context: Context) -> None:
        run = event.run
        alerts = self.detector.feed(event)
        memory = self.detector.runs[run]
        for waiting in memory.following:
            waiting.left -= event.offset > waiting.alert
        for alert in alerts:
            context.publish(alert)
            if self.config.actions:
                self._act(alert, memory, context)
        if self.config.figures.enabled:
            for figure in memory.figures.feed(event, self.config.figures.every):
                context.publish(figure)
        if run not in self._stored:
            self._store(run, context)
            for old in self.detector.forget_oldest():
                context.state.pop(RUN_KEY + old, None)
                self._stored.discard(old)

    def _act(self, alert: events.Alert, memory: RunMemory, context: Context) -> None:
        for decision in decide(self.config.actions, alert, memory):
            if not decision.dry_run and not decision.refused:
                context.command(alert.run, decision.verb, reason=decision.reason, **decision.arguments)
            untaken = decision.event(alert)
            if untaken is not None:
                context.publish(untaken)
            evidence = {"actions": [*alert.evidence.get("actions", []), decision.told()]}
            alert = _updated(alert, self.detector.annotate(alert.run, alert.id, **evidence), evidence, decision.told())
            context.publish(alert)

    def _store(self, run: str, context: Context) -> None:
        """The state holds the memory itself: it is encoded when the cursor is committed, not at every event."""
        context.state[RUN_KEY + run] = self.detector.runs[run]
        self._stored.add(run)


def _updated(alert: events.Alert, state: events.AlertState, evidence: dict[str, Any], message: str = "") -> events.Alert:
    return events.Alert(
        run=alert.run,
        time=alert.time,
        id=alert.id,
        rule=alert.rule,
        category=alert.category,
        severity=alert.severity,
        state=state,
        step=alert.step,
        message=message or alert.message,
        evidence=alert.evidence | evidence,
        advice=alert.advice,
        plugin=PLUGIN,
    )
