"""What the page shows of one run, as a function of its events."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec
from msgspec import structs

from trainbus.bus import events
from trainbus.plugins.web.answers import Answers
from trainbus.plugins.web.checkpoint_board import CheckpointBoard, CheckpointRow
from trainbus.plugins.web.queue_board import QueueBoard
from trainbus.plugins.web.series import Series
from trainbus.plugins.web.step_times import StepTimes

COMMANDS = 100
"""Commands kept for a run."""

SPARK_POINTS = 48
"""Points of the small curve in the list of runs."""

ALERTS, CHECKPOINTS, EVALS = 300, 500, 500
"""How many of each are kept for a run; of more, the oldest are forgotten."""

SERIES = 500
"""Metrics of a run that are charted; further names are counted, not kept."""

RATE_STEPS = 200
"""Steps over which the pace of the run is measured."""

ETA_PARTS, ETA_PART_STEPS = 4, 5
"""Into so many parts the last steps are cut to see how the pace varies; a shorter part says nothing."""

STEPS_PER_SECOND = "steps_per_second"
"""The series that this view derives from the times of the steps."""

ELAPSED, EXAMPLES, TOKENS = "elapsed_seconds", "examples", "tokens"
"""Series that place the steps on other axes, so that runs can be laid over each other by time or by what they have seen."""


class RunView:
    """One run. `apply` takes its events in the order of their offsets.

    Args:
        run: The run's id.
        points: Limit of each series.
        samples: Samples that are kept.
    """

    def __init__(self, run: str, *, points: int = 200_000, samples: int = 100) -> None:
        self.run = run
        self.name = run
        self.state = ""
        self.reason = ""
        self.host = ""
        self.config: dict[str, Any] = {}
        self.started = 0
        self.updated = 0
        self.step: int | None = None
        self.total_steps: int | None = None
        self.epoch: float | None = None
        self.examples: int | None = None
        self.tokens: int | None = None
        self.phase: events.Phase | None = None
        self.events = 0
        self.gaps = 0
        self.metrics_left_out = 0
        self.series: dict[str, Series] = {}
        self.alerts: dict[str, events.Alert] = {}
        self.checkpoints: dict[str, events.Checkpoint] = {}
        self.board = CheckpointBoard()
        self.evals: deque[events.Eval] = deque(maxlen=EVALS)
        self.answers = Answers(samples)
        self.commands: dict[str, dict[str, Any]] = {}
        self.queue = QueueBoard()
        self.step_times = StepTimes()
        self.versions: dict[str, int] = {}
        self._points = points
        self._pace: deque[tuple[int, int]] = deque(maxlen=RATE_STEPS)
        self._resumes = False

    def apply(self, event: events.AnyEvent) -> None:
        """Take in the next event of this run."""
        self.events += 1
        if isinstance(event, events.Retention):  # told of a run that may have ended long ago: no news of the run itself
            self.board.apply(event)
            self._changed("fates")
            return
        self.updated = max(self.updated, event.time)
        match event:
            case events.Step():
                self._on_step(event)
            case events.Metric():
                self._add(event.name, event.step if event.step is not None else self.step or 0, event.value)
            case events.RunStarted():
                self._on_started(event)
            case events.RunEnded():
                self.state, self.reason, self.phase = event.outcome, event.reason, None
            case events.Phase():
                self.phase = None if event.state == "ended" else event
            case events.Eval():
                self.evals.append(event)
                self._changed("evals")
            case events.Sample():
                self._on_sample(event)
            case events.Command():
                self._on_command(event)
            case events.CommandResult():
                self._on_result(event)
            case events.Job():
                self.queue.apply(event, self.step)
                self._changed("jobs")
            case events.Checkpoint():
                self._on_checkpoint(event)
            case events.Alert():
                self._on_alert(event)
            case events.Gap():
                self.gaps += max(0, event.last_seq - event.first_seq + 1)
            case _:
                pass

    def _on_checkpoint(self, event: events.Checkpoint) -> None:
        """One row for each directory: while it is written it has no id yet, and when it is deleted its figures still count."""
        key = f"{event.step} {event.path}"
        before = self.checkpoints.get(key)
        if before is not None and not event.metrics:
            event = structs.replace(event, metrics=before.metrics)
        _keep(self.checkpoints, key, event, CHECKPOINTS)
        self._changed("checkpoints")
        self._changed("fates")

    def fates(self) -> list[CheckpointRow]:
        """The checkpoints with what is to become of each, the highest step first."""
        return self.board.rows(self.checkpoints.values())

    def disks_changed(self) -> None:
        """The disks that hold the checkpoints are other than they were."""
        self._changed("fates")

    def _on_alert(self, event: events.Alert) -> None:
        """One row for each incident; a cleared one goes on saying what it was, and then how it ended."""
        key = event.id or f"{event.rule}@{event.offset}"
        before = self.alerts.get(key)
        if before is not None and event.state == "cleared":
            event = structs.replace(event, message=before.message, advice=event.message, evidence=event.evidence or before.evidence)
        _keep(self.alerts, key, event, ALERTS)
        self._changed("alerts")

    def _on_sample(self, event: events.Sample) -> None:
        self.answers.add(event)
        self._changed("samples")
        running = self.answers.accuracy(50)
        if event.correct is not None and running is not None:
            self._add("accuracy_50", event.step, running)

    def _on_command(self, event: events.Command) -> None:
        """A command is shown from now on until its end, and then for as long as it is among the newest."""
        told = {"command": event.id, "verb": event.verb, "arguments": event.arguments, "requested_by": event.requested_by}
        told["plugin"] = event.plugin
        _keep(
            self.commands,
            event.id,
            told | {"asked": event.reason, "state": "sent", "reason": "", "time": event.time, "result": {}},
            COMMANDS,
        )
        self._changed("commands")

    def _on_result(self, event: events.CommandResult) -> None:
        before = self.commands.get(event.command)
        if before is not None:
            before |= {"state": event.state, "reason": event.reason, "result": event.result, "answered": event.time}
            self._changed("commands")

    def _changed(self, name: str) -> None:
        """Pages ask for a list again when its version has grown."""
        self.versions[name] = self.versions.get(name, 0) + 1

    def listed(self, name: str, now: int) -> list[dict[str, Any]] | None:
        """One of the run's lists, newest first, jobs as they came; None for a list that doesn't exist."""
        match name:
            case "alerts":
                return [shown(alert) for alert in reversed(self.alerts.values())]
            case "checkpoints":
                return [shown(checkpoint) for checkpoint in reversed(self.checkpoints.values())]
            case "evals":
                return [shown(result) for result in reversed(self.evals)]
            case "samples":
                return [shown(sample) for sample in reversed(self.answers.recent)]
            case "commands":
                return list(reversed(self.commands.values()))
            case "jobs":
                return self.queue.rows(now)
        return None

    def spark(self) -> list[float]:
        """The shape of the loss in a few points."""
        series = self.series.get("loss") or self.series.get("train_loss")
        return series.window(SPARK_POINTS).values if series else []

    def pace(self) -> float | None:
        """Steps per second over the last `RATE_STEPS` steps."""
        if len(self._pace) < 2:
            return None
        (first_step, first_time), (last_step, last_time) = self._pace[0], self._pace[-1]
        seconds = (last_time - first_time) / 1e9
        return (last_step - first_step) / seconds if seconds > 0 and last_step > first_step else None

    def eta(self) -> float | None:
        """Seconds until the last step at the present pace; None while that is unknown."""
        pace = self.pace()
        if self.state != "running" or pace is None or self.total_steps is None or self.step is None:
            return None
        return max(0, self.total_steps - self.step) / pace

    def eta_interval(self) -> tuple[float, float] | None:
        """The time left at the fastest and at the slowest pace of the last quarters of `RATE_STEPS`; None while that is unknown."""
        times = list(self._pace)
        size = len(times) // ETA_PARTS
        if self.eta() is None or size < ETA_PART_STEPS or self.total_steps is None or self.step is None:
            return None
        ends = [(times[start * size], times[min((start + 1) * size, len(times) - 1)]) for start in range(ETA_PARTS)]
        paces = [(b[1] - a[1]) / 1e9 / (b[0] - a[0]) for a, b in ends if b[0] > a[0] and b[1] > a[1]]
        left = max(0, self.total_steps - self.step)
        return (left * min(paces), left * max(paces)) if paces else None

    def best(self) -> tuple[int, float] | None:
        """Step and value of the lowest loss."""
        points = self.series["loss"].window(4) if "loss" in self.series else None
        return min(zip(points.steps, points.values, strict=True), key=lambda point: point[1]) if points and points.steps else None

    def latest(self) -> dict[str, float | None]:
        """The newest value of each metric; None where that is not finite."""
        return {name: None if _broken(series) else series.last for name, series in self.series.items()}

    def broken_metrics(self) -> list[str]:
        """Metrics whose newest value is NaN or infinite."""
        return [name for name, series in self.series.items() if _broken(series)]

    def _on_started(self, event: events.RunStarted) -> None:
        self.name, self.host, self.config = event.name or self.name, event.host, event.config
        self.started = self.started or event.time
        self._changed("config")
        self.state, self.reason = "running", ""
        self._resumes = True
        self._pace.clear()

    def _on_step(self, event: events.Step) -> None:
        if not self.state or self.state == "lost":
            self.state, self.reason = "running", ""
        if event.rank:
            return
        if self._resumes:
            # A restarted run walks some steps again: the abandoned ones would draw a second, wrong line.
            self._resumes = False
            for series in self.series.values():
                series.cut(event.step)
        if self._pace and event.step > self._pace[-1][0] and event.time > self._pace[-1][1]:
            seconds = (event.time - self._pace[-1][1]) / 1e9
            self._add(STEPS_PER_SECOND, event.step, (event.step - self._pace[-1][0]) / seconds)
            self.step_times.add(seconds / (event.step - self._pace[-1][0]))
        self._pace.append((event.step, event.time))
        if self.started:
            self._add(ELAPSED, event.step, (event.time - self.started) / 1e9)
        for name, count in ((EXAMPLES, event.examples), (TOKENS, event.tokens)):
            if count is not None:
                self._add(name, event.step, float(count))
        self.step = event.step
        for field in ("total_steps", "epoch", "examples", "tokens"):
            if (value := getattr(event, field)) is not None:
                setattr(self, field, value)
        for name, value in event.metrics.items():
            self._add(name, event.step, value)

    def _add(self, name: str, step: int, value: float) -> None:
        series = self.series.get(name)
        if series is None:
            if len(self.series) >= SERIES:
                self.metrics_left_out += 1
                return
            series = self.series[name] = Series(self._points)
        series.add(step, value)


def shown(event: events.Event) -> dict[str, Any]:
    """An event as the page's lists want it: all fields, also those that hold their default."""
    return {name: msgspec.to_builtins(getattr(event, name)) for name in event.__struct_fields__} | {"kind": event.kind}


def _broken(series: Series) -> bool:
    """Whether the newest point is one without a finite value."""
    return bool(series.gaps) and (not series.steps or series.gaps[-1].last >= series.steps[-1])


def _keep(kept: dict[str, Any], key: str, event: Any, limit: int) -> None:
    """Replace an entry in its place, or add it as the newest; forget the oldest above the limit."""
    kept[key] = event
    if len(kept) > limit:
        del kept[next(iter(kept))]
