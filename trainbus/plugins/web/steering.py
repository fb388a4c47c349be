"""What an operator may ask a run for from the page, and retention about a checkpoint of the run."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, get_args

import msgspec
from msgspec import Meta, Struct

from trainbus.bus.events import DECODE_ERRORS
from trainbus.errors import TrainbusError
from trainbus.hookspecs import Context

RunVerb: TypeAlias = Literal["pause", "resume", "stop", "save", "evaluate", "skip", "free_caches", "set"]
QueueVerb: TypeAlias = Literal["queue_priority", "queue_move", "queue_remove", "queue_retry", "queue_hold", "queue_release"]
CheckpointVerb: TypeAlias = Literal["pin", "unpin", "restore"]

CHECKPOINT_VERBS = frozenset(get_args(CheckpointVerb))
QUEUE_VERBS = frozenset(get_args(QueueVerb))

LONGEST_BODY = 16 * 1024
"""Bytes of a request; one is a few words long."""
RESERVED = frozenset({"run", "verb", "reason", "plugin", "requested_by"})
"""What a command says of itself, so no setting can have these names."""


class Steer(Struct, kw_only=True, forbid_unknown_fields=True):
    """A request.

    Without ``plugin`` the run is asked; ``set`` takes ``arguments``, for example ``{"learning_rate": 1e-5}``, and so do the verbs that edit
    the trainer's queue: ``job``, and ``priority`` or ``before``, as text. With ``plugin``
    ``retention`` the verbs are ``pin``, ``unpin`` and ``restore``, and ``arguments`` name the ``checkpoint`` by its id; ``restore`` may say
    ``"pin": false``.
    """

    verb: RunVerb | QueueVerb | CheckpointVerb
    plugin: Literal["", "retention"] = ""
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
    except DECODE_ERRORS as error:
        raise RefusedRequest(400, f"This is no request for a run: {error}.") from error
    if (asked.verb in CHECKPOINT_VERBS) != (asked.plugin == "retention"):
        raise RefusedRequest(400, f"{', '.join(sorted(CHECKPOINT_VERBS))} need the plugin retention, which knows no other verb.")
    if asked.plugin:
        _check_checkpoint(asked)
    else:
        _check_settings(asked)
    return asked


def _check_settings(asked: Steer) -> None:
    if asked.verb not in QUEUE_VERBS and bool(asked.arguments) != (asked.verb == "set"):
        raise RefusedRequest(400, "`set` needs arguments, and no other verb takes any but those of the queue.")
    if taken := RESERVED.intersection(asked.arguments):
        raise RefusedRequest(400, f"A setting can't be named {', '.join(sorted(taken))}.")


def _check_checkpoint(asked: Steer) -> None:
    checkpoint = asked.arguments.get("checkpoint")
    if not isinstance(checkpoint, str) or not checkpoint:
        raise RefusedRequest(400, f"`{asked.verb}` needs the id of a checkpoint, as checkpoint.")
    if asked.arguments.keys() - {"checkpoint", *(["pin"] if asked.verb == "restore" else [])}:
        raise RefusedRequest(400, "Beside checkpoint, only `restore` takes an argument: pin.")
    if not isinstance(asked.arguments.get("pin", True), bool):
        raise RefusedRequest(400, "pin is true or false.")


async def send(context: Context, run: str, asked: Steer) -> dict[str, Any]:
    """Send the command; its id, under which its result will come as an event.

    Raises:
        RefusedRequest: The bus did not take it.
    """
    try:
        arguments: dict[str, Any] = dict(asked.arguments)
        reason = asked.reason or "asked on the dashboard"
        command = await context.command(run, asked.verb, reason=reason, plugin=asked.plugin, **arguments)
    except TrainbusError as error:
        raise RefusedRequest(409 if error.code == "refused" else 503, error.problem) from error
    return {"command": command, "run": run, "verb": asked.verb}
