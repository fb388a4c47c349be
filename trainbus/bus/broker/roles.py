"""What each role may do. docs/security.md shows this table, made from it."""

from __future__ import annotations

from typing import NamedTuple

from trainbus.bus import wire
from trainbus.bus.credentials import ROLES, Role


class Right(NamedTuple):
    """The least role that may send a message. ``own``: the least one when it is about a consumer of one's own."""

    role: Role
    own: Role | None = None


REQUESTS: dict[type[wire.Request], Right] = {
    wire.Status: Right("observer"),
    wire.History: Right("observer"),
    wire.Runs: Right("observer"),
    wire.Consumers: Right("observer"),
    wire.DeadLetters: Right("observer"),
    wire.Leases: Right("observer"),
    wire.OpenCursor: Right("operator", own="observer"),
    wire.CommitCursor: Right("operator", own="observer"),
    wire.ResetCursor: Right("operator", own="observer"),
    wire.DropCursor: Right("operator", own="observer"),
    wire.AddDeadLetter: Right("operator", own="observer"),
    wire.TakeLease: Right("publisher"),
    wire.RenewLease: Right("publisher"),
    wire.ReleaseLease: Right("publisher"),
    wire.SendCommand: Right("operator"),
    wire.DeleteRun: Right("admin"),
    wire.TrimJournal: Right("admin"),
    wire.Supervise: Right("admin"),
    wire.Supervisor: Right("admin"),
}
"""Every request. One that is missing here is an admin's."""

MESSAGES: dict[type[wire.Message], Right] = {
    wire.Hello: Right("publisher"),
    wire.Events: Right("publisher"),
    wire.Skipped: Right("publisher"),
    wire.Beat: Right("publisher"),
    wire.Bye: Right("publisher"),
    wire.Forwarded: Right("admin"),
}
"""Every message of a client but `Call`; the others only a broker sends, and it refuses them from anybody."""

LOOKING = ("plugins",)
"""Verbs of `Supervise` that change nothing: `trainbus status` asks them."""


def owns(name: str, consumer: str) -> bool:
    """Whether a consumer belongs to the client ``name``: it is called ``NAME`` or ``NAME:...``."""
    return consumer == name or consumer.startswith(f"{name}:")


def needed(name: str, message: wire.AnyMessage) -> Role:
    """The least role with which the client ``name`` may send this."""
    if not isinstance(message, wire.Call):
        return MESSAGES.get(type(message), Right("admin")).role
    request = message.request
    if isinstance(request, wire.Supervise) and request.verb in LOOKING:
        return "observer"
    right = REQUESTS.get(type(request), Right("admin"))
    if right.own is not None and owns(name, getattr(request, "consumer", "")):
        return right.own
    return right.role


def refusal(name: str, role: Role, message: wire.AnyMessage) -> str:
    """Why the client may not send this; "" when it may."""
    least = needed(name, message)
    if ROLES.index(role) >= ROLES.index(least):
        return ""
    what = type(message.request if isinstance(message, wire.Call) else message).__name__
    own = ""
    if isinstance(message, wire.Call) and (right := REQUESTS.get(type(message.request))) is not None and right.own is not None:
        own = f" for consumers other than its own, which are named {name}:..."
    return f"The key {name!r} has the role {role}; {what} needs {least}{own}."
