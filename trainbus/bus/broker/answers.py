"""Answers to calls, and what the broker says of itself."""

from __future__ import annotations

import msgspec

from trainbus.bus import events, wire
from trainbus.errors import TrainbusError


def reply(call: int, result: object = None) -> wire.Reply:
    """A call succeeded."""
    return wire.Reply(id=call, result=msgspec.Raw(wire.encode(result)))


def failure(call: int, error: TrainbusError) -> wire.Failure:
    """A call was refused, or could not be served."""
    return wire.Failure(id=call, code=error.facts.get("code", error.code), problem=error.problem, hint=error.hint)


def keys_alert(problem: str, host: str, before: str) -> events.Alert:
    """Nobody new can be let in any more; or, with ``problem`` empty, what was said ``before`` is over."""
    return events.Alert(
        id=f"keys:{host}",
        rule="keys",
        category="security",
        severity="critical" if problem else "info",
        state="raised" if problem else "cleared",
        message=problem or f"Clients can be let in again. It was: {before}",
        advice="Those who are connected stay so. See logs/broker.log; `trainbus keys list` reads the same keys." if problem else "",
    )
