"""A run's summary as a function of the events that the journal has of it, folded in one batch at a time."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import structs

from trainbus.bus import events, wire
from trainbus.bus.broker.intake import MAX_INTEGER
from trainbus.bus.broker.records import RunRecord

LOST_RULE = "lost_run"
"""Rule of the alerts that the broker itself raises."""

MILESTONES = frozenset({"run_started", "run_ended", "command_result"})
"""Kinds whose events are looked into one by one; of steps only the last one of a batch counts."""


def decoded(body: bytes) -> events.AnyEvent | None:
    """The event; None for a body whose envelope is sound while its fields are not: the journal keeps it, the summary passes it by."""
    try:
        return events.decode(body)
    except msgspec.DecodeError:
        return None


def fold(record: RunRecord, event: events.AnyEvent, *, own: bool) -> RunRecord:
    """The summary after a milestone or step.

    Args:
        record: The summary so far.
        event: The next event of that run.
        own: Whether the broker itself made the event.
    """
    if isinstance(event, events.RunStarted):
        return structs.replace(
            record,
            state="running",
            name=event.name or record.name,
            host=event.host or record.host,
            started=record.started or event.time,
            reason="",
        )
    if isinstance(event, events.RunEnded):
        if event.outcome == "lost" and record.state != "running":
            return record  # it ended while the broker was about to say so
        # A lost run keeps its owner, so that hearing from it again can take the loss back.
        owner = record.owner if event.outcome == "lost" else ""
        return structs.replace(record, state=event.outcome, reason=event.reason, last_step=_step(event.step, record.last_step), owner=owner)
    if isinstance(event, events.Step):
        return structs.replace(
            record, last_step=_step(event.step, record.last_step), total_steps=_step(event.total_steps, record.total_steps)
        )
    if isinstance(event, events.Alert) and own and event.rule == LOST_RULE and event.state == "cleared" and record.state == "lost":
        return structs.replace(record, state="running", reason="")
    return record


def count(record: RunRecord, number: int, first: int, last: int) -> RunRecord:
    """The summary after ``number`` more events, stamped from ``first`` to ``last``."""
    return structs.replace(record, events=record.events + number, started=record.started or first, updated=max(record.updated, last))


def listing(records: Iterable[RunRecord]) -> list[wire.RunInfo]:
    """All runs, newest first. Events of no run (of a machine, of a plugin) are not listed."""
    chosen = sorted((record for record in records if record.run), key=lambda record: (record.started, record.id), reverse=True)
    return [
        wire.RunInfo(
            run=record.run,
            name=record.name,
            state=record.state,
            started=record.started,
            updated=record.updated,
            last_step=record.last_step,
            total_steps=record.total_steps,
            host=record.host,
            events=record.events,
            reason=record.reason,
        )
        for record in chosen
    ]


def _step(value: int | None, otherwise: int | None) -> int | None:
    return value if value is not None and 0 <= value <= MAX_INTEGER else otherwise
