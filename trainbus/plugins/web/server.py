"""The page's HTTP server: files, API, event stream. Thin: what it says is made by the store."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

from aiohttp import web

from trainbus.errors import ConfigError
from trainbus.hookspecs import Context
from trainbus.plugins.web import assets, security
from trainbus.plugins.web.config import DEFAULT_PORT, PORTS_TRIED, WebConfig
from trainbus.plugins.web.encoding import to_json
from trainbus.plugins.web.intake import Intake
from trainbus.plugins.web.stream import EventStream

MAX_STREAMS = 100
"""Open event streams; more are refused with 503."""

MAX_POINTS, DEFAULT_POINTS = 10_000, 1_000
MAX_METRICS = 50
"""Metrics of one request for series."""

STOP_SECONDS = 2.0
"""Requests that are being answered when the plugin ends have so long."""

COMPRESSED_FROM = 2_048
"""Bytes of an answer from which compressing it pays."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Serves one store.

    Args:
        context: For the history behind the event stream, and the log.
    """

    def __init__(self, config: WebConfig, intake: Intake, context: Context) -> None:
        self.config = config
        self.intake = intake
        self.context = context
        self.assets = assets.load()
        self._streams: set[asyncio.Task[object]] = set()
        self._runner: web.AppRunner | None = None

    async def start(self) -> str:
        """Listen; returns the address of the page.

        Raises:
            ConfigError: The port that the config names can't be used.
        """
        listening = listen(self.config)
        app = web.Application(middlewares=[self._guard], client_max_size=64 * 1024)
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/api/state", self._state),
                web.get("/api/runs", self._runs),
                web.get("/api/runs/{run}", self._run),
                web.get("/api/runs/{run}/series", self._series),
                web.get("/api/events", self._events),
                web.get("/{path:.*}", self._asset),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=STOP_SECONDS, handler_cancellation=True)
        await self._runner.setup()
        await web.SockSite(self._runner, listening).start()
        host, port = listening.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    async def stop(self) -> None:
        """Close all connections and the port."""
        # An open stream would go on for ever, and the runner would wait for it.
        for stream in self._streams:
            stream.cancel()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Checks who asks; puts the security headers on every answer, also on errors."""
        refusal = security.refuse(self.config, request.headers, request.cookies)
        offered = request.query.get("token")
        if refusal and refusal.status == 401 and offered is not None and security.same(self.config.token, offered):
            return self._remember(request)
        try:
            response = _problem(refusal.status, refusal.problem) if refusal else await handler(request)
        except web.HTTPException as error:
            response = _problem(error.status, error.reason)
        if not response.prepared:
            response.headers.update(security.HEADERS)
        return response

    def _remember(self, request: web.Request) -> web.Response:
        """Move the token from the address, where it would be seen and kept, into a cookie that scripts can't read."""
        rest = {key: value for key, value in request.query.items() if key != "token"}
        response = web.Response(status=303, headers={"Location": request.path + (f"?{urlencode(rest)}" if rest else "")})
        response.headers.update(security.HEADERS)
        response.set_cookie(security.COOKIE, self.config.token, httponly=True, samesite="Strict", path="/")
        return response

    async def _healthz(self, request: web.Request) -> web.Response:
        store, feed = self.intake.store.stats(), self.intake.feed.stats()
        ready = self.intake.loaded.is_set()
        fields = {"ready": ready, "position": store.position, "runs": store.runs, "points": store.points, "streams": feed.listeners}
        return _answer(request, fields | {"dropped_streams": feed.dropped, "problem": self.intake.problem})

    async def _state(self, request: web.Request) -> web.Response:
        now = time.time_ns()
        runs = self.intake.store.summaries(now)
        chosen = request.query.get("run") or (runs[0]["run"] if runs else "")
        answer = self.intake.store.shared(now) | {
            "loading": not self.intake.loaded.is_set(),
            "problem": self.intake.problem,
            "runs": runs,
            "run": self.intake.store.detail(chosen, now),
        }
        return _answer(request, answer)

    async def _runs(self, request: web.Request) -> web.Response:
        return _answer(request, {"runs": self.intake.store.summaries(time.time_ns())})

    async def _run(self, request: web.Request) -> web.Response:
        detail = self.intake.store.detail(request.match_info["run"], time.time_ns())
        return _answer(request, detail) if detail else _problem(404, "No such run is known here.")

    async def _series(self, request: web.Request) -> web.Response:
        metrics = request.query.getall("metric", [])
        if not metrics or len(metrics) > MAX_METRICS:
            return _problem(400, f"Name 1 to {MAX_METRICS} metrics, as in ?metric=loss&metric=grad_norm.")
        points = min(MAX_POINTS, max(4, _number(request, "points") or DEFAULT_POINTS))
        first, last = _number(request, "from"), _number(request, "to")
        series = self.intake.store.series(request.match_info["run"], metrics, points, first, last)
        if series is None:
            return _problem(404, "No such run is known here.")
        return _answer(request, {"run": request.match_info["run"], "offset": self.intake.store.position, "series": series})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        task = asyncio.current_task()
        if task is None or len(self._streams) >= MAX_STREAMS:
            return _problem(503, f"{MAX_STREAMS} streams are open already.")
        after = _number(request, "after")
        last_id = request.headers.get("Last-Event-ID", "")
        if last_id.isascii() and last_id.isdigit() and len(last_id) < 19:
            after = int(last_id)
        stream = EventStream(request, self.intake, self.context, after)
        stream.response.headers.update(security.HEADERS)
        self._streams.add(task)
        try:
            return await stream.run()
        finally:
            self._streams.discard(task)

    async def _asset(self, request: web.Request) -> web.Response:
        asset = self.assets.get(request.path)
        if asset is None:
            return _problem(404, "Nothing is here.")
        headers = {"ETag": f'"{asset.etag}"', "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if f'"{asset.etag}"' in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = asset.content_type
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            return web.Response(body=asset.zipped, headers=headers | {"Content-Encoding": "gzip"})
        return web.Response(body=asset.plain, headers=headers)


def listen(config: WebConfig) -> socket.socket:
    """A listening socket on the configured port, or on the first free one of the default ports.

    Raises:
        ConfigError: The port or address that the config names can't be used.
    """
    ports = [config.port] if config.port is not None else [*range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TRIED), 0]
    for port in ports:
        try:
            return socket.create_server((config.bind, port), family=socket.AF_INET6 if ":" in config.bind else socket.AF_INET, backlog=128)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and config.port is None:
                continue
            key = "plugin.web.port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "plugin.web.bind"
            raise ConfigError(
                f"{key}: {config.bind} port {port} can't be used: {error.strerror or error}.",
                hint="Choose another one, end the program that has it, or leave plugin.web.port out: then a free port is found.",
                key=key,
                found=port,
            ) from error
    raise AssertionError("port 0 is always free")


def _number(request: web.Request, name: str) -> int | None:
    text = request.query.get(name, "")
    if not text:
        return None
    try:
        number = int(text)
    except ValueError:
        raise web.HTTPBadRequest(reason=f"{name} is no whole number") from None
    if abs(number) > 2**62:
        raise web.HTTPBadRequest(reason=f"{name} is out of range")
    return number


def _answer(request: web.Request, value: dict[str, object]) -> web.Response:
    body = to_json(value)
    response = web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})
    if len(body) >= COMPRESSED_FROM and "gzip" in request.headers.get("Accept-Encoding", ""):
        response.enable_compression(web.ContentCoding.gzip)
    return response


def _problem(status: int, text: str) -> web.Response:
    return web.Response(status=status, body=to_json({"problem": text}), content_type="application/json")
