"""The page's HTTP server: who may ask, the page's files, and where the API is mounted."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

from aiohttp import web

from trainbus.errors import ConfigError
from trainbus.hookspecs import Context
from trainbus.plugins.web import assets, security
from trainbus.plugins.web.answering import problem
from trainbus.plugins.web.api import Api
from trainbus.plugins.web.changes import Changes
from trainbus.plugins.web.config import DEFAULT_PORT, PORTS_TRIED, WebConfig
from trainbus.plugins.web.dropping import Dropping
from trainbus.plugins.web.intake import Intake
from trainbus.plugins.web.routes import ROUTES, Route
from trainbus.plugins.web.steering import LONGEST_BODY
from trainbus.plugins.web.tokens import Links

LASTING = "public, max-age=31536000, immutable"
"""For files whose name changes with their content."""

STOP_SECONDS = 2.0
"""Requests that are being answered when the plugin ends have so long."""

EVERYWHERE = ("0.0.0.0", "::")
"""Addresses under which a server listens, but nobody reaches it."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Serves one store.

    Args:
        context: For the history behind the event stream, and the log.
    """

    def __init__(self, config: WebConfig, intake: Intake, context: Context) -> None:
        self.config = config
        dropping = Dropping(config)
        self.api = Api(config, intake, dropping, context)
        self.changes = Changes(config, intake, dropping, context)
        self.assets = assets.load()
        self.links = Links()
        self._runner: web.AppRunner | None = None

    async def start(self) -> str:
        """Listen; returns the address of the page.

        Raises:
            ConfigError: The port that the config names can't be used.
        """
        listening = listen(self.config)
        app = web.Application(middlewares=[self._guard], client_max_size=LONGEST_BODY)
        app.add_routes(
            [
                *(web.route(route.method, route.path, self._handler(route)) for route in ROUTES),
                web.get("/{path:.*}", self._asset),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=STOP_SECONDS, handler_cancellation=True)
        await self._runner.setup()
        await web.SockSite(self._runner, listening).start()
        host, port = listening.getsockname()[:2]
        if host in EVERYWHERE:
            host = socket.gethostname()
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def _handler(self, route: Route) -> Handler:
        handler: Handler = getattr(self.changes if route.operator else self.api, route.handler)
        return handler

    async def stop(self) -> None:
        """Close all connections and the port."""
        # An open stream would go on for ever, and the runner would wait for it.
        for stream in self.api.streams:
            stream.cancel()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Checks who asks; puts the security headers on every answer, also on errors."""
        refusal = security.refuse(self.config, request.headers, request.cookies)
        offered = request.query.get("token")
        # Also for somebody who may read already: the operator's link makes an operator of a viewer.
        if offered is not None and (refusal is None or refusal.status == 401):
            token = offered if security.known(self.config, offered) else self.links.redeem(offered)
            if token is not None:
                return _remember(request, token)
        try:
            response = problem(refusal.status, refusal.problem) if refusal else await handler(request)
        except web.HTTPException as error:
            response = problem(error.status, error.reason)
        if not response.prepared:
            response.headers.update(security.HEADERS)
        return response

    async def _asset(self, request: web.Request) -> web.Response:
        asset = self.assets.get(request.path)
        if asset is None:
            return problem(404, "Nothing is here.")
        headers = {"ETag": f'"{asset.etag}"', "Cache-Control": LASTING if asset.lasting else "no-cache", "Vary": "Accept-Encoding"}
        if f'"{asset.etag}"' in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = asset.content_type
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            return web.Response(body=asset.zipped, headers=headers | {"Content-Encoding": "gzip"})
        return web.Response(body=asset.plain, headers=headers)


def _remember(request: web.Request, token: str) -> web.Response:
    """Move the token from the address, where it would be seen and kept, into a cookie that scripts can't read."""
    rest = {key: value for key, value in request.query.items() if key != "token"}
    # One leading slash: two would name another host.
    place = "/" + request.path.lstrip("/") + (f"?{urlencode(rest)}" if rest else "")
    response = web.Response(status=303, headers={"Location": place})
    response.headers.update(security.HEADERS)
    response.set_cookie(security.COOKIE, token, httponly=True, samesite="Strict", path="/")
    return response


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
