"""What a snapshot tells beside the model: metadata.json, and the events around the incident."""

from __future__ import annotations

from typing import Any

import msgspec

from trainbus.bus.events import Alert, Sample
from trainbus.plugins.anomaly.config import AnomalyConfig
from trainbus.plugins.anomaly.memory import Kept, RunMemory

MAX_TEXT = 500
"""Characters of a prompt or answer that are kept."""


def told(sample: Sample) -> dict[str, Any]:
    """A sample as the metadata tells it."""
    return {
        "step": sample.step,
        "example": sample.example,
        "prompt": sample.prompt[:MAX_TEXT],
        "expected": sample.expected and sample.expected[:MAX_TEXT],
        "answer": sample.answer and sample.answer[:MAX_TEXT],
        "correct": sample.correct,
        "loss": sample.loss,
    }


def metadata_of(alert: Alert, memory: RunMemory, checkpoint: Kept, config: AnomalyConfig, run_config: dict[str, Any]) -> dict[str, Any]:
    """Everything that metadata.json says, but the snapshot's name."""
    history = {metric: [list(point) for point in points] for metric, points in memory.history.items()}
    accuracy = next((metric for metric in history if "accuracy" in metric or "score" in metric), "")
    findings = alert.evidence.get("findings", [])
    best = memory.lowest.get("eval/loss") or memory.lowest.get("loss")
    return {
        "run": alert.run,
        "time": alert.time,
        "timestamp": alert.time / 1e9,
        "step": alert.step,
        "reason": alert.message,
        "alert": {"id": alert.id, "rule": alert.rule, "severity": alert.severity, "evidence": alert.evidence},
        "triggers": alert.evidence.get("rules", [alert.rule]),
        "z_scores": {f"{one['rule']}:{one['metric']}": one.get("z", one.get("deviations", one["score"])) for one in findings},
        "open_alerts": sorted(memory.incidents),
        "checkpoint": {"id": checkpoint.id, "step": checkpoint.step, "path": checkpoint.path},
        "loss": _last(history.get("loss")),
        "accuracy": _last(history.get(accuracy)),
        "learning_rate": memory.learning_rate,
        "loss_history": history.get("loss", []),
        "accuracy_history": history.get(accuracy, []),
        "learning_rate_history": history.get("learning_rate", []),
        "history": history,
        "recent_samples": memory.samples,
        "best_loss": best.value if best else None,
        "best_loss_step": best.step if best else None,
        "best": {metric: {"step": lowest.step, "value": lowest.value} for metric, lowest in memory.lowest.items()},
        "config": msgspec.to_builtins(config),
        "run_config": run_config,
    }


def _last(points: list[list[float]] | None) -> float | None:
    return points[-1][1] if points else None
