"""Answers to calls."""

from __future__ import annotations

import msgspec

from trainbus.bus import wire
from trainbus.errors import TrainbusError


def reply(call: int, result: object = None) -> wire.Reply:
    """A call succeeded."""
    return wire.Reply(id=call, result=msgspec.Raw(wire.encode(result)))


def failure(call: int, error: TrainbusError) -> wire.Failure:
    """A call was refused, or could not be served."""
    return wire.Failure(id=call, code=error.facts.get("code", error.code), problem=error.problem, hint=error.hint)
