"""The status of one run as a function of its events. Everything is kept in one Struct, so that it can be stored and read back."""

from __future__ import annotations

import math
import statistics
from typing import Any

from msgspec import Struct, field

from trainbus.bus import events

SAMPLES = 5
WINDOW = 50
"""Steps and answers that are looked back on."""
HISTORY = 100
"""Points of each history."""
STREAMING = 0.1
"""Weight of the newest value in streaming figures."""
LONGEST = 2_000
"""Characters of a text that are shown."""


class Status(Struct, kw_only=True):
    """What the file says. What is not known (yet) is null; a number that is no number is null, too.

    ``trend`` figures are the last part of a series less the part before it: of losses, falling is negative.
    """

    run: str = ""
    status: str = "waiting"
    step: int | None = None
    total_steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    learning_rate: float | None = None
    time: int = 0
    model: str = ""
    context_window: int | None = None
    batch_step: int | None = None
    batch_number: int = 0
    queue_size: int = 0
    current_file: str = ""
    error_type: str = ""
    error_message: str = ""

    system_prompt: str | None = None
    prompt: str | None = None
    expected: str | None = None
    answer: str | None = None
    match: bool | None = None
    recent_samples: list[dict[str, Any]] = field(default_factory=list)

    evals_total: int = 0
    evals_correct: int = 0
    accuracy: float | None = None
    accuracy_20: float | None = None
    accuracy_50: float | None = None
    accuracy_trend: float | None = None
    accuracy_history: list[float] = field(default_factory=list)

    fixed_exact_match: float | None = None
    fixed_cross_entropy: float | None = None
    fixed_calibration_error: float | None = None
    fixed_trend: float | None = None
    validation_loss: float | None = None
    validation_gap: float | None = None

    loss_history: list[float | None] = field(default_factory=list)
    streaming_cross_entropy: float | None = None
    loss_variance: float | None = None
    loss_trend: float | None = None
    token_entropy: float | None = None
    tokens_per_second: float | None = None
    tokens_per_second_average: float | None = None
    tokens_per_second_baseline: float | None = None
    throughput_trend: float | None = None
    queue_velocity: float | None = None

    logit_penalties: dict[str, float | None] = field(default_factory=dict)
    lora: dict[str, float | None] = field(default_factory=dict)
    alerts: list[dict[str, str]] = field(default_factory=list)


class Memory(Struct, kw_only=True):
    """A status with what it is computed from."""

    status: Status = field(default_factory=Status)
    losses: list[float] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)
    verdicts: list[bool] = field(default_factory=list)
    exact: list[float] = field(default_factory=list)
    jobs: dict[str, str] = field(default_factory=dict)
    alerts: dict[str, dict[str, str]] = field(default_factory=dict)
    began: int | None = None
    speed_sum: float = 0.0
    speed_count: int = 0

    def apply(self, event: events.AnyEvent) -> None:
        """Take in the next event of the run; of a run that has just begun, a new `Memory` is made first."""
        status = self.status
        status.time = max(status.time, event.time)
        match event:
            case events.RunStarted():
                status.run, status.status = event.run, "running"
                status.model = str(event.config.get("model", status.model))
                length = event.config.get("max_length")
                status.context_window = length if isinstance(length, int) else status.context_window
                status.error_type = status.error_message = ""
            case events.RunEnded():
                status.status = event.outcome
                if event.outcome in ("failed", "lost"):
                    status.error_type, status.error_message = event.outcome, event.reason
            case events.Phase():
                self._phase(event)
            case events.Step() if not event.rank:
                self._step(event)
            case events.Sample():
                self._sample(event)
            case events.Eval():
                self._eval(event)
            case events.Job():
                self._job(event)
            case events.Metric():
                self._metric(event)
            case events.Alert():
                self._alert(event)
            case _:
                pass

    def _phase(self, event: events.Phase) -> None:
        words = {"idle": "idle", "paused": "paused", "no_room": "paused"}
        if self.status.status not in ("running", *words.values()):
            return
        self.status.status = "running" if event.state == "ended" else words.get(event.name, "running")

    def _step(self, event: events.Step) -> None:
        status, metrics = self.status, event.metrics
        status.step, status.total_steps, status.epoch = event.step, event.total_steps, event.epoch
        self.began = event.step - 1 if self.began is None else self.began
        status.batch_step = event.step - self.began
        status.learning_rate = _finite(metrics.get("learning_rate", status.learning_rate))
        if "loss" in metrics:
            status.loss = _finite(metrics["loss"])
            _push(status.loss_history, status.loss, HISTORY)
            if status.loss is not None:
                self._loss(status.loss)
        if (speed := _finite(metrics.get("tokens_per_second"))) is not None:
            self._speed(speed)
        self._shaping(metrics)

    def _loss(self, loss: float) -> None:
        status = self.status
        before = status.streaming_cross_entropy
        status.streaming_cross_entropy = loss if before is None else before + STREAMING * (loss - before)
        _push(self.losses, loss, WINDOW)
        status.loss_variance = statistics.pvariance(self.losses) if len(self.losses) > 1 else None
        status.loss_trend = _trend(self.losses)
        status.validation_gap = None if status.validation_loss is None else status.validation_loss - status.streaming_cross_entropy

    def _speed(self, speed: float) -> None:
        status = self.status
        _push(self.speeds, speed, WINDOW)
        self.speed_sum, self.speed_count = self.speed_sum + speed, self.speed_count + 1
        status.tokens_per_second = speed
        status.tokens_per_second_average = self.speed_sum / self.speed_count
        if self.speed_count == WINDOW:
            status.tokens_per_second_baseline = statistics.median(self.speeds)
        status.throughput_trend = _trend(self.speeds)

    def _sample(self, event: events.Sample) -> None:
        status = self.status
        status.prompt, status.expected, status.answer = _cut(event.prompt), _cut(event.expected), _cut(event.answer)
        status.match = event.correct
        shown = {"step": event.step, "prompt": status.prompt, "expected": status.expected, "answer": status.answer}
        _push(status.recent_samples, shown | {"match": event.correct, "loss": _finite(event.loss)}, SAMPLES)
        if event.correct is None:
            return
        status.evals_total += 1
        status.evals_correct += event.correct
        _push(self.verdicts, event.correct, WINDOW)
        status.accuracy = status.evals_correct / status.evals_total
        status.accuracy_20, status.accuracy_50 = statistics.fmean(self.verdicts[-20:]), statistics.fmean(self.verdicts)
        before = self.verdicts[-40:-20]
        status.accuracy_trend = status.accuracy_20 - statistics.fmean(before) if before else None
        _push(status.accuracy_history, status.accuracy, HISTORY)

    def _eval(self, event: events.Eval) -> None:
        status, metrics = self.status, event.metrics
        status.validation_loss = _finite(metrics.get("loss", status.validation_loss))
        status.fixed_cross_entropy = _finite(metrics.get("cross_entropy", metrics.get("loss")))
        status.fixed_calibration_error = _finite(metrics.get("calibration_error", status.fixed_calibration_error))
        status.token_entropy = _finite(metrics.get("token_entropy", status.token_entropy))
        if (exact := _finite(metrics.get("exact_match"))) is not None:
            _push(self.exact, exact, WINDOW)
            status.fixed_exact_match = exact
            status.fixed_trend = self.exact[-1] - self.exact[-2] if len(self.exact) > 1 else None
        if status.validation_loss is not None and status.streaming_cross_entropy is not None:
            status.validation_gap = status.validation_loss - status.streaming_cross_entropy
        self._shaping(metrics)

    def _shaping(self, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            if "penalty" in name:
                self.status.logit_penalties[name] = _finite(value)
            elif name.startswith("lora"):
                self.status.lora[name] = _finite(value)

    def _job(self, event: events.Job) -> None:
        status = self.status
        self.jobs[event.id] = event.state
        if event.state in ("completed", "failed"):
            del self.jobs[event.id]
        if event.state == "processing":
            status.current_file, status.batch_number, self.began = event.file, status.batch_number + 1, status.step
        elif status.current_file == event.file:
            status.current_file = ""
        if event.state == "failed":
            status.error_type, status.error_message = "file", f"{event.file}: {event.reason}"
        status.queue_size = sum(state == "queued" for state in self.jobs.values())

    def _metric(self, event: events.Metric) -> None:
        if event.name == "queue/megabytes_per_hour":
            self.status.queue_velocity = _finite(event.value)
        elif event.name == "token_entropy":
            self.status.token_entropy = _finite(event.value)
        self._shaping({event.name: event.value})

    def _alert(self, event: events.Alert) -> None:
        if event.state == "cleared":
            self.alerts.pop(event.id, None)
        else:
            self.alerts[event.id] = {"rule": event.rule, "severity": event.severity, "message": _cut(event.message) or ""}
            if event.rule == "crash":
                self.status.error_type, self.status.error_message = str(event.evidence.get("kind", "crash")), event.message
        self.status.alerts = list(self.alerts.values())[-WINDOW:]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= LONGEST else text[:LONGEST] + " ..."


def _push(values: list[Any], value: Any, limit: int) -> None:
    values.append(value)
    del values[:-limit]


def _trend(values: list[float]) -> float | None:
    half = len(values) // 2
    return statistics.fmean(values[half:]) - statistics.fmean(values[:half]) if half >= 2 else None
