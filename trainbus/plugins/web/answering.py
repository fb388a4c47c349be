"""What every handler of the API shares: reading parameters, writing answers, refusing."""

from __future__ import annotations

from aiohttp import web

from trainbus.plugins.web.encoding import to_json

COMPRESSED_FROM = 2_048
"""Bytes of an answer from which compressing it pays."""

Fields = dict[str, object]


def number(request: web.Request, name: str) -> int | None:
    """A whole number of the query; None when it is not given.

    Raises:
        web.HTTPBadRequest: It is none, or far out of range.
    """
    text = request.query.get(name, "")
    if not text:
        return None
    try:
        value = int(text)
    except ValueError:
        raise web.HTTPBadRequest(reason=f"{name} is no whole number") from None
    if abs(value) > 2**62:
        raise web.HTTPBadRequest(reason=f"{name} is out of range")
    return value


def answer(request: web.Request, value: object, *, status: int = 200) -> web.Response:
    """An answer in JSON, compressed when that pays."""
    return body(request, to_json(value), "application/json", status=status)


def body(request: web.Request, content: bytes, content_type: str, *, status: int = 200, name: str = "") -> web.Response:
    """An answer of any type; ``name`` makes it a file to be saved."""
    headers = {"Cache-Control": "no-store", "Content-Type": content_type}
    if name:
        headers["Content-Disposition"] = (
            f'attachment; filename="{"".join(c if (c.isascii() and c.isalnum()) or c in "-_." else "_" for c in name)}"'
        )
    response = web.Response(status=status, body=content, headers=headers)
    if len(content) >= COMPRESSED_FROM and "gzip" in request.headers.get("Accept-Encoding", ""):
        response.enable_compression(web.ContentCoding.gzip)
    return response


def problem(status: int, text: str) -> web.Response:
    """A refusal with what a person should read."""
    return web.Response(status=status, body=to_json({"problem": text}), content_type="application/json")


def unknown_run() -> web.Response:
    """The refusal of a question about a run that isn't there."""
    return problem(404, "No such run is known here.")
