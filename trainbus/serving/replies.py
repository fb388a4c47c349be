"""JSON answers and OpenAI's error bodies."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from trainbus.bus.events import DECODE_ERRORS
from trainbus.errors import ModelError, RefusedError, TrainbusError

T = TypeVar("T")

STATUS_OF = {
    "unknown": (404, "NotFoundError", "model_not_found"),
    "too_long": (400, "invalid_request_error", "context_length_exceeded"),
    "invalid": (400, "invalid_request_error", None),
    "template": (400, "invalid_request_error", None),
    "exists": (409, "invalid_request_error", "exists"),
    "conflict": (409, "invalid_request_error", "conflict"),
    "value": (422, "invalid_request_error", "value"),
    "unloadable": (422, "invalid_request_error", "unloadable"),
    "too_large": (413, "invalid_request_error", "too_large"),
    "full": (507, "server_error", "full"),
    "source": (502, "server_error", "source"),
    "unsupported": (501, "server_error", "unsupported"),
    "forbidden": (403, "invalid_request_error", "forbidden"),
    "busy": (429, "rate_limit_error", "busy"),
    "closed": (503, "server_error", "unloaded"),
}
"""HTTP status, OpenAI's type and code, by ``facts["code"]`` of a `RefusedError`."""

BODY_SECONDS = 60.0
"""A body that drips in more slowly is not waited for."""


def json(value: Any, status: int = 200) -> web.Response:
    """Any value that msgspec knows, as JSON."""
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def error_body(message: str, kind: str, code: Any = None, param: str | None = None) -> dict[str, Any]:
    """OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def problem(error: TrainbusError) -> tuple[int, dict[str, Any]]:
    """Status and body for one of our errors."""
    if isinstance(error, RefusedError):
        status, kind, code = STATUS_OF.get(str(error.facts.get("code")), (400, "invalid_request_error", None))
        return status, error_body(_sentence(error), kind, code, error.facts.get("param"))
    if isinstance(error, ModelError):
        return 500, error_body(_sentence(error), "server_error", "model")
    return 500, error_body(_sentence(error), "server_error", error.code)


def refusal(error: TrainbusError) -> web.Response:
    """One of our errors as an answer."""
    status, body = problem(error)
    response = json(body, status)
    if status in (429, 503):
        response.headers["Retry-After"] = "1"
    return response


async def body_of(request: web.Request, kind: type[T]) -> T:
    """A request's body, decoded.

    Raises:
        RefusedError: It is no such JSON (``facts["code"]``: ``invalid``), too large or too slow.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            raw = await request.read()
    except TimeoutError as error:
        raise RefusedError(f"The body did not come within {BODY_SECONDS:g} s.", code="invalid") from error
    except web.HTTPRequestEntityTooLarge as error:
        raise RefusedError(
            f"The body is larger than {request.client_max_size} bytes.", hint="Ask for less at once.", code="too_large"
        ) from error
    try:
        return msgspec.json.decode(raw, type=kind)
    except DECODE_ERRORS as error:
        raise RefusedError(f"The request is not valid: {error}", code="invalid", param=_param(str(error))) from error


def _param(message: str) -> str | None:
    """The field that msgspec complains of: ``... - at `$.max_tokens` ``."""
    with contextlib.suppress(IndexError):
        return message.split("`$.")[1].split("`")[0]
    return None


def _sentence(error: TrainbusError) -> str:
    return f"{error.problem} {error.hint}".strip()
