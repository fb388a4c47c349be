"""The handlers of what only an operator may ask for: commands to runs, plugins, files for the inbox."""

from __future__ import annotations

from aiohttp import web

from trainbus.hookspecs import Context
from trainbus.plugins.web import plugin_control, security, steering
from trainbus.plugins.web.answering import answer, number, problem, unknown_run
from trainbus.plugins.web.config import WebConfig
from trainbus.plugins.web.dropping import Dropping
from trainbus.plugins.web.intake import Intake

CHUNK_BYTES = 256 * 1024
"""A dropped file is written in pieces of this size."""


class Changes:
    """Each handler refuses a viewer; what it may not do on the bus, the bus refuses."""

    def __init__(self, config: WebConfig, intake: Intake, dropping: Dropping, context: Context) -> None:
        self._config = config
        self._intake = intake
        self._dropping = dropping
        self._context = context

    async def command(self, request: web.Request) -> web.Response:
        """Ask a run for something, or retention for something with one of its checkpoints."""
        if refusal := self._refuse_change(request):
            return refusal
        run = request.match_info["run"]
        if run not in self._intake.store.runs:
            return unknown_run()
        try:
            sent = await steering.send(self._context, run, steering.read(await request.read()))
        except steering.RefusedRequest as refused:
            return problem(refused.status, str(refused))
        return answer(request, sent, status=202)

    async def plugins(self, request: web.Request) -> web.Response:
        """What is installed where the supervisor runs."""
        if refusal := self._refuse_viewer(request):
            return refusal
        try:
            return answer(request, {"installed": await plugin_control.installed(self._context)})
        except steering.RefusedRequest as refused:
            return problem(refused.status, str(refused))

    async def plugin_log(self, request: web.Request) -> web.Response:
        """What a plugin printed last. For operators: nobody knows what stands in a log."""
        if refusal := self._refuse_viewer(request):
            return refusal
        try:
            lines = await plugin_control.log(self._context, request.match_info["plugin"], number(request, "lines"))
        except steering.RefusedRequest as refused:
            return problem(refused.status, str(refused))
        return answer(request, {"lines": lines})

    async def plugin(self, request: web.Request) -> web.Response:
        """Add, remove or restart a plugin."""
        if refusal := self._refuse_change(request):
            return refusal
        try:
            asked = plugin_control.read(await request.read())
            return answer(request, await plugin_control.change(self._context, request.match_info["plugin"], asked), status=202)
        except steering.RefusedRequest as refused:
            return problem(refused.status, str(refused))

    async def drop(self, request: web.Request) -> web.Response:
        """Put a file into the trainer's inbox."""
        if refusal := self._refuse_change(request, "application/octet-stream"):
            return refusal
        name, priority = request.query.get("name", ""), request.query.get("priority", "normal")
        try:
            dropped = await self._dropping.take(name, priority, request.content_length, request.content.iter_chunked(CHUNK_BYTES))
        except steering.RefusedRequest as refused:
            return problem(refused.status, str(refused))
        self._context.logger.info("%s (%d bytes) was dropped into the inbox", dropped.name, dropped.bytes)
        return answer(request, dropped, status=202)

    def _refuse_viewer(self, request: web.Request) -> web.Response | None:
        refusal = security.refuse_viewer(security.role(self._config, request.headers, request.cookies))
        return problem(refusal.status, refusal.problem) if refusal else None

    def _refuse_change(self, request: web.Request, content_type: str = "application/json") -> web.Response | None:
        refusal = security.refuse_change(security.role(self._config, request.headers, request.cookies), request.headers, content_type)
        return problem(refusal.status, refusal.problem) if refusal else None
