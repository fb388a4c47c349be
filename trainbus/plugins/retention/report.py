"""What retention tells the bus: a plan as an alert, a deletion as a checkpoint event."""

from __future__ import annotations

from collections.abc import Sequence

from trainbus.bus.events import Alert, AlertState, Checkpoint
from trainbus.plugins.retention.policy import Decision
from trainbus.plugins.retention.records import Record

MAX_LISTED = 200
"""Decisions of each kind that an alert lists one by one."""


def plan_alert(run: str, host: str, decisions: Sequence[Decision], *, known: bool) -> Alert:
    """The plan of a run in dry run: what would go and what would stay, each with its reason.

    Args:
        known: An alert about this run was published before.
    """
    goes = [decision for decision in decisions if not decision.keep]
    stays = [decision for decision in decisions if decision.keep]
    size = sum(decision.record.bytes or 0 for decision in goes)
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


def deleted_event(record: Record, host: str, reason: str) -> Checkpoint:
    """A checkpoint is gone, and why."""
    return Checkpoint(
        run=record.run,
        id=record.id,
        step=record.step,
        path=record.path,
        host=host,
        state="deleted",
        bytes=record.bytes,
        digest=record.digest,
        reason=reason,
    )


def _line(decision: Decision) -> dict[str, object]:
    record = decision.record
    return {"id": record.id, "step": record.step, "bytes": record.bytes, "reason": decision.reason}
