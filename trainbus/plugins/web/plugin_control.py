"""Looking after plugins from the page: what is installed, what one printed last, add, remove, restart. The supervisor does it."""

from __future__ import annotations

import asyncio
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct

from trainbus.bus.events import DECODE_ERRORS
from trainbus.errors import TrainbusError
from trainbus.hookspecs import Context
from trainbus.plugins.web.steering import RefusedRequest

PluginVerb: TypeAlias = Literal["add", "remove", "restart"]

LOG_LINES, MOST_LINES = 200, 2_000
"""Lines of a log, unless asked for another number, and at most."""

OWN_PATIENCE = 1.0
"""Seconds for a refusal when the dashboard itself is to end or restart: its answer would come too late for anybody."""


class Look(Struct, kw_only=True, forbid_unknown_fields=True):
    """A request. ``save``: the list in the configuration file is changed too, so that it lasts."""

    verb: PluginVerb
    save: bool = True


def read(body: bytes) -> Look:
    """The request in a body.

    Raises:
        RefusedRequest: It is none.
    """
    try:
        return msgspec.json.decode(body, type=Look)
    except DECODE_ERRORS as error:
        raise RefusedRequest(400, f"This is no request for a plugin: {error}.") from error


async def installed(context: Context) -> list[dict[str, Any]]:
    """Every plugin that is installed where the supervisor runs."""
    found = await _ask(context, "installed")
    return [one for one in found or [] if isinstance(one, dict)]


async def log(context: Context, plugin: str, lines: int | None) -> list[str]:
    """The last lines that a plugin printed."""
    wanted = LOG_LINES if lines is None else max(0, min(MOST_LINES, lines))
    return [str(line) for line in await _ask(context, "log", plugin, lines=wanted) or []]


async def change(context: Context, plugin: str, asked: Look) -> dict[str, Any]:
    """Do it, and tell how the plugin stands then; for the dashboard itself only that it is under way."""
    arguments = {} if asked.verb == "restart" else {"save": asked.save}
    work = asyncio.ensure_future(_ask(context, asked.verb, plugin, **arguments))
    if plugin == context.name and asked.verb != "add":
        done, _ = await asyncio.wait({work}, timeout=OWN_PATIENCE)
        if not done:
            return {"plugin": plugin, "verb": asked.verb, "state": "asked"}
    status = await work
    return {"plugin": plugin, "verb": asked.verb, "state": status.get("state", "") if isinstance(status, dict) else ""}


async def _ask(context: Context, verb: str, name: str = "", **arguments: Any) -> Any:
    try:
        return await context.supervise(verb, name, **arguments)
    except TrainbusError as error:
        raise RefusedRequest(503 if error.code == "unreachable" else 409, f"{error.problem} {error.hint}".strip()) from error
