"""What retention tells the bus: plans and obstacles as alerts, a deletion or a return as a checkpoint event, bytes as metrics."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from trainbus.bus.events import Alert, AlertState, Checkpoint, CheckpointState, Severity
from trainbus.plugins.retention.planning import Decision, DiskState, Unmet
from trainbus.plugins.retention.records import Record

MAX_LISTED = 200
"""Decisions of each kind that an alert lists one by one."""
ALERT_KEY = "alert/"


def plan_alert(run: str, host: str, decisions: Sequence[Decision], *, known: bool) -> Alert:
    """The plan of a run in dry run: what would go and what would stay, each with its reason.

    Args:
        known: An alert about this run was published before.
    """
    goes = [decision for decision in decisions if decision.action != "keep"]
    stays = [decision for decision in decisions if decision.action == "keep"]
    size = sum(decision.frees for decision in goes)
    state: AlertState = "cleared" if not goes else "updated" if known else "raised"
    return Alert(
        run=run,
        id=f"retention_plan:{run}:{host}",
        rule="retention_plan",
        category="retention",
        severity="info",
        state=state,
        message=f"{len(goes)} of {len(decisions)} checkpoints would be deleted, {size / 1e9:.2f} GB."
        if goes
        else "Nothing would be deleted.",
        evidence={
            "bytes": size,
            "delete": [_line(decision) for decision in goes[-MAX_LISTED:]],
            "keep": [_line(decision) for decision in stays[-MAX_LISTED:]],
        },
        advice="Set dry_run = false in [plugin.retention] to let them go." if goes else "",
        plugin="retention",
    )


def checkpoint_event(record: Record, host: str, state: CheckpointState, reason: str) -> Checkpoint:
    """A checkpoint is gone, came back, or is thinner, and why."""
    return Checkpoint(
        run=record.run,
        id=record.id,
        step=record.step,
        path=record.path,
        host=host,
        state=state,
        bytes=record.bytes,
        digest=record.digest,
        metrics=record.metrics,
        reason=reason,
    )


class Incidents:
    """Alerts that are raised once, updated when they say something else, and cleared; remembered over restarts.

    Args:
        state: Durable small values.
    """

    def __init__(self, state: MutableMapping[str, Any]) -> None:
        self._state = state

    def report(self, alert: Alert) -> Alert | None:
        """The alert to publish, with its state; None when it says what it said before."""
        before = self._state.get(ALERT_KEY + alert.id)
        if before == alert.message:
            return None
        alert.state = "raised" if before is None else "updated"
        self._state[ALERT_KEY + alert.id] = alert.message
        return alert

    def clear(self, alert: Alert) -> Alert | None:
        """The alert that ends it; None when nothing was raised."""
        if self._state.pop(ALERT_KEY + alert.id, None) is None:
            return None
        alert.state = "cleared"
        return alert


def blocked_alert(host: str, unmet: Sequence[Unmet]) -> Alert:
    """Limits that can't be met without touching what is protected."""
    message = "; ".join(f"{each.limit}, and {each.missing:,} bytes are missing" for each in unmet)
    return Alert(
        id=f"retention_blocked:{host}",
        rule="retention_blocked",
        category="retention",
        severity="critical",
        message=message or "All limits are met.",
        evidence={"in_the_way": [{"limit": each.limit, "missing": each.missing, "protected": each.in_the_way} for each in unmet]},
        advice="Unpin checkpoints, lower min_age or min_evaluations, or give the limit more room." if unmet else "",
        plugin="retention",
    )


def damaged_alert(record: Record, host: str) -> Alert:
    """A checkpoint that was announced as complete is not whole."""
    return Alert(
        run=record.run,
        id=f"retention_damaged:{record.id}",
        rule="retention_damaged",
        category="retention",
        severity="critical",
        step=record.step,
        message=f"{record.path} is not whole: {record.faults}",
        evidence={"checkpoint": record.id, "host": host},
        advice="Nothing older was deleted for it. Keep it for a look, or delete it yourself; the disk may be failing.",
        plugin="retention",
    )


def backup_alert(host: str, failed: Mapping[str, str]) -> Alert:
    """Versions that could not be backed up."""
    advice = "See backup_to in [plugin.retention]; `trainbus checkpoints backups make` tries it by hand."
    return _attempts("backup_failed", host, failed, "Every version has its backup.", advice)


def promotion_alert(host: str, failed: Mapping[str, str]) -> Alert:
    """Checkpoints that could not be promoted at the fixed hour."""
    advice = "`trainbus checkpoints promote` tries it by hand; the next try is tomorrow."
    return _attempts("promotion_failed", host, failed, "Every promotion went well.", advice)


def _attempts(rule: str, host: str, failed: Mapping[str, str], well: str, advice: str) -> Alert:
    """What could not be done, by path with the reason; the same alert says ``well`` when nothing failed."""
    return Alert(
        id=f"{rule}:{host}",
        rule=rule,
        category="retention",
        severity="warning",
        message="; ".join(f"{path}: {why}" for path, why in failed.items()) or well,
        evidence={"failed": dict(failed)},
        advice=advice if failed else "",
        plugin="retention",
    )


def disk_alert(host: str, disk: DiskState, warn: int, seconds_left: float | None) -> Alert:
    """A disk that is getting full, long before anything goes; critical when a tenth of the warning is left."""
    severity: Severity = "critical" if disk.free < warn // 10 else "warning"
    left = f" At the present rate it is full in {seconds_left / 3600:.0f} h." if seconds_left is not None else ""
    gigabytes = int(disk.free / 1e9)
    return Alert(
        id=f"disk_low:{host}:{disk.name}",
        rule="disk_low",
        category="retention",
        severity=severity,
        message=f"{disk.name} has less than {max(gigabytes, 0) + 1} GB free.{left}",
        evidence={"free": disk.free, "total": disk.total, "trash": disk.trash},
        advice="Free some space, or set limits in [plugin.retention].",
        plugin="retention",
    )


def _line(decision: Decision) -> dict[str, object]:
    record = decision.record
    line: dict[str, object] = {"id": record.id, "step": record.step, "bytes": record.bytes, "reason": decision.reason}
    return {**line, "action": "thin"} if decision.action == "thin" else line
