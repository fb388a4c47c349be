"""What an operator may ask a run for from the page."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from trainbus.errors import TrainbusError
from trainbus.hookspecs import Context

Verb: TypeAlias = Literal["pause", "resume", "stop", "save", "evaluate", "skip", "free_caches", "set"]

LONGEST_BODY = 16 * 1024
"""Bytes of a request; one is a few words long."""
RESERVED = frozenset({"run", "verb", "reason", "plugin", "requested_by"})
"""What a command says of itself, so no setting can have these names."""


class Steer(Struct, kw_only=True, forbid_unknown_fields=True):
    """A request. ``arguments`` only for ``set``: for example ``{"learning_rate": 1e-5}``."""

    verb: Verb
    arguments: dict[str, str | int | float | bool] = msgspec.field(default_factory=dict)
    reason: Annotated[str, Meta(max_length=500)] = ""


class RefusedRequest(Exception):  # noqa: N818 - it is an answer, not a fault
    """An HTTP status with what a person should read."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status = status


def read(body: bytes) -> Steer:
    """The request in a body.

    Raises:
        RefusedRequest: It is none.
    """
    try:
        asked = msgspec.json.decode(body, type=Steer)
    except msgspec.DecodeError as error:
        raise RefusedRequest(400, f"This is no request for a run: {error}.") from error
    if bool(asked.arguments) != (asked.verb == "set"):
        raise RefusedRequest(400, "`set` needs arguments, and no other verb takes any.")
    if taken := RESERVED.intersection(asked.arguments):
        raise RefusedRequest(400, f"A setting can't be named {', '.join(sorted(taken))}.")
    return asked


async def send(context: Context, run: str, asked: Steer) -> dict[str, Any]:
    """Send the command; its id, under which its result will come as an event.

    Raises:
        RefusedRequest: The bus did not take it.
    """
    try:
        settings: dict[str, Any] = dict(asked.arguments)
        command = await context.command(run, asked.verb, reason=asked.reason or "asked on the dashboard", **settings)
    except TrainbusError as error:
        raise RefusedRequest(409 if error.code == "refused" else 503, error.problem) from error
    return {"command": command, "run": run, "verb": asked.verb}
