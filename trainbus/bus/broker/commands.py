"""Commands for runs: journaled, delivered to the run's owner, and delivered again until a result is in the journal."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from trainbus.bus import events, wire
from trainbus.bus.broker.draft import Draft
from trainbus.bus.broker.records import CommandRecord, RunRecord, Tables
from trainbus.errors import RefusedError

REDELIVER_AFTER = 3.0
"""Seconds until a command without a result is delivered again."""

FINAL = ("done", "refused")


class Commands:
    """Commands that wait for a result.

    Args:
        tables: The journal's small tables.
        new_id: Makes ids.
    """

    def __init__(self, tables: Tables, new_id: Callable[[], str]) -> None:
        self._runs = tables.runs
        self._waiting = tables.commands
        self._new_id = new_id
        self._delivered: dict[str, float] = {}

    def send(self, request: wire.SendCommand, draft: Draft) -> dict[str, str]:
        """Add a command to the journal. One for a plugin is an event like any other: its cursor sees to it that it arrives.

        Raises:
            RefusedError: ``unknown`` run, or one that has ``ended``.
        """
        record = known_run(self._runs.get(request.run), request.run, [row.run for row in self._runs.values()])
        if record.state != "running" and not request.plugin:
            why = f": {record.reason}" if record.reason else ""
            raise RefusedError(
                f"Run {request.run} has ended ({record.state}{why}).",
                hint="Only a running run takes commands; `trainbus runs list` shows which are running.",
                code="ended",
            )
        command = events.Command(
            run=request.run,
            id=self._new_id(),
            verb=request.verb,
            arguments=request.arguments,
            requested_by=request.requested_by,
            reason=request.reason,
            plugin=request.plugin,
        )
        offset, body = draft.make(command)
        if request.plugin:
            return {"id": command.id}
        self._waiting.put(CommandRecord(id=command.id, run=command.run, offset=offset, verb=command.verb, body=body))
        return {"id": command.id}

    def result(self, event: events.CommandResult) -> None:
        """A result is about to be journaled: a final one ends the command's delivery."""
        if event.state in FINAL and self._waiting.get(event.command) is not None:
            self._waiting.drop(event.command)

    def run_ended(self, run: str, draft: Draft) -> None:
        """The run's end is about to be journaled: what still waits is refused, so that nobody waits and no later process obeys it."""
        for record in self._waiting.values():
            if record.run == run:
                reason = "the run ended before it answered"
                draft.make(events.CommandResult(run=run, command=record.id, verb=record.verb, state="refused", reason=reason))
                self._waiting.drop(record.id)

    def due(self, now: float) -> list[CommandRecord]:
        """Commands to deliver now, in journal order: only what is committed."""
        waiting = sorted(self._waiting.committed_values(), key=lambda record: record.offset)
        return [record for record in waiting if now - self._delivered.get(record.id, -REDELIVER_AFTER) >= REDELIVER_AFTER]

    def delivered(self, command: str, now: float) -> None:
        """It was sent just now."""
        self._delivered[command] = now

    def owner_returned(self, run: str) -> None:
        """The run's owner said hello: it may have missed what was sent before."""
        for record in self._waiting.values():
            if record.run == run:
                self._delivered.pop(record.id, None)

    def settled(self) -> None:
        """A transaction ended: forget deliveries of commands that wait no more."""
        waiting = {record.id for record in self._waiting.values()}
        self._delivered = {command: when for command, when in self._delivered.items() if command in waiting}


def known_run(record: RunRecord | None, run: str, runs: list[str]) -> RunRecord:
    """The record of a run that a person named.

    Raises:
        RefusedError: ``unknown``; the hint names the nearest run ids.
    """
    if record is not None and run:
        return record
    near = difflib.get_close_matches(run, [name for name in runs if name], n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else "`trainbus runs list` shows the runs that there are."
    raise RefusedError(f"No run is called {run!r}.", hint=hint, code="unknown", nearest=near)
