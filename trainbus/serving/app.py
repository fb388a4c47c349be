"""The server put together: routes, rights, limits, and what runs beside the requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import msgspec
from aiohttp import web
from msgspec import Struct

from trainbus.errors import RefusedError, TrainbusError
from trainbus.serving import machine
from trainbus.serving.access import Right, refuse
from trainbus.serving.answering import Answering
from trainbus.serving.catalogue import Catalogue
from trainbus.serving.config import ServeConfig
from trainbus.serving.fetching import Fetcher
from trainbus.serving.jobs import DataRequest, EvalRequest, Jobs
from trainbus.serving.managing import Managing
from trainbus.serving.questions import read_set
from trainbus.serving.replies import body_of, error_body, json, refusal
from trainbus.serving.residency import Residency
from trainbus.serving.store import Store
from trainbus.version import __version__

log = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

LOG_LINES = 2_000
RIGHTS: web.AppKey[dict[Any, Right]] = web.AppKey("rights", dict)


class Power(Struct, kw_only=True):
    """``POST /power``; without ``gpu`` all are set."""

    profile: str
    gpu: int | None = None


class LogLines(logging.Handler):
    """The last lines of the server's own log. Prompts, answers and keys are in none."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: deque[str] = deque(maxlen=LOG_LINES)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.lines.append(self.format(record))


class Server:
    """Everything behind the routes. `application` is the face.

    Args:
        config: See `ServeConfig`.
        gpus: Asks NVML.

    Raises:
        ModelError: A configured model is none.
        ConfigError: ``fetch_from`` names no host.
        OSError: The store's folder can't be made.
    """

    def __init__(self, config: ServeConfig, gpus: machine.Gpus | None = None) -> None:
        self._config = config
        self._gpus = gpus or machine.Gpus(config.power_profiles)
        self._started = time.time()
        self._requests = self._errors = 0
        self.logs = LogLines()
        self.catalogue = Catalogue(config.models, config.roots, config.paths)
        self.residency = Residency(self.catalogue, config)
        self._store = Store(config.store, config.store_bytes) if config.store is not None else None
        self._jobs = Jobs(self.residency, config.max_seconds, at_once=2 * config.max_batch)
        self._asking = Answering(self.residency, config)
        fetcher = Fetcher(config.fetch_from, self._store) if self._store is not None and config.fetch_from else None
        self._managing = Managing(self.catalogue, self.residency, self._store, fetcher)

    def application(self) -> web.Application:
        """The aiohttp application; serve it with ``handler_cancellation``, so that what nobody waits for is not made."""
        app = web.Application(client_max_size=self._config.body_bytes, middlewares=[self._guard])
        rights: dict[Any, Right] = {}
        for method, path, handler, right in self._routes():
            # Both with and without OpenAI's prefix, so that one base address serves for everything.
            for prefix in ("",) if path.startswith("/v1/") else ("", "/v1"):
                if prefix and path in ("/models",):
                    continue  # OpenAI's own
                rights[app.router.add_route(method, prefix + path, handler)] = right
        app[RIGHTS] = rights
        app.cleanup_ctx.append(self._beside)
        return app

    def _routes(self) -> list[tuple[str, str, Handler, Right]]:
        asking, managing = self._asking, self._managing
        return [
            ("GET", "/health", self._health, "none"),
            ("GET", "/info", self._info, "read"),
            ("GET", "/version", self._version, "read"),
            ("GET", "/v1/models", managing.openai_models, "read"),
            ("POST", "/v1/chat/completions", asking.chat, "read"),
            ("POST", "/v1/completions", asking.text, "read"),
            ("POST", "/v1/loss", asking.loss, "read"),
            ("POST", "/generate", asking.generate, "read"),
            ("GET", "/models", managing.models, "read"),
            ("GET", "/models/active", managing.active, "read"),
            ("POST", "/models/set_active", managing.set_active, "admin"),
            ("POST", "/models/register", managing.register, "admin"),
            ("POST", "/models/fetch", managing.fetch, "admin"),
            ("POST", "/models/load", managing.load, "admin"),
            ("POST", "/models/unload", managing.unload, "admin"),
            ("DELETE", "/models/{name:.+}", managing.delete, "admin"),
            ("POST", "/v1/load_lora_adapter", managing.load_lora, "admin"),
            ("POST", "/v1/unload_lora_adapter", managing.unload_lora, "admin"),
            ("GET", "/blobs/{xxh3}", managing.blob, "admin"),
            ("PUT", "/blobs/{xxh3}", managing.put_blob, "admin"),
            ("POST", "/eval/jobs", self._submit_eval, "read"),
            ("POST", "/data/jobs", self._submit_data, "read"),
            ("GET", "/jobs", self._list_jobs, "read"),
            ("GET", "/jobs/stats", self._job_stats, "read"),
            ("GET", "/jobs/{id}", self._job, "read"),
            ("GET", "/eval/jobs/{id}", self._job, "read"),
            ("GET", "/eval/jobs/{id}/result", self._job_result, "read"),
            ("DELETE", "/jobs/{id}", self._cancel_job, "read"),
            ("GET", "/gpu", self._gpu, "read"),
            ("GET", "/system", self._system, "read"),
            ("GET", "/power", self._power, "read"),
            ("POST", "/power", self._set_power, "admin"),
            ("GET", "/logs", self._log, "admin"),
        ]

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Rights first; then our errors become answers in OpenAI's form, whatever they are."""
        self._requests += 1
        right = request.app[RIGHTS].get(request.match_info.route, "read")
        if (refused := refuse(self._config, request.headers, right)) is not None:
            self._errors += 1
            log.warning("%s %s refused: %d", request.method, request.path, refused.status)
            return json(error_body(refused.problem, "invalid_request_error", "access"), refused.status)
        try:
            return await handler(request)
        except TrainbusError as error:
            self._errors += 1
            log.info("%s %s: %s", request.method, request.path, error.problem)
            return refusal(error)
        except ValueError as error:  # an option out of range that no decoder has checked
            self._errors += 1
            return refusal(RefusedError(f"The request is not valid: {error}.", code="invalid"))
        except web.HTTPException as error:
            self._errors += 1
            return json(error_body(error.reason, "invalid_request_error", error.status), error.status)
        except Exception:
            self._errors += 1
            log.exception("%s %s failed", request.method, request.path)
            return json(error_body("The server failed; its log says how.", "server_error"), 500)

    async def _beside(self, app: web.Application) -> AsyncIterator[None]:
        logger = logging.getLogger("trainbus.serving")
        logger.addHandler(self.logs)
        logger.setLevel(logging.INFO)
        worker = asyncio.create_task(self._jobs.run())
        try:
            yield
        finally:
            worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await worker
            await self.residency.close()
            logger.removeHandler(self.logs)

    async def _health(self, request: web.Request) -> web.StreamResponse:
        """Alive; nothing more, because anybody may ask."""
        return json({"status": "ok"})

    async def _info(self, request: web.Request) -> web.StreamResponse:
        """What is served, with counts."""
        return json(
            {
                "name": "trainbus",
                "version": __version__,
                "started": self._started,
                "uptime": time.time() - self._started,
                "active": self.catalogue.active,
                "models": [entry.id for entry in self.catalogue],
                "device": self._config.device,
                "requests": self._requests,
                "errors": self._errors,
                "residency": self.residency.stats(),
                "generators": {name: generator.stats() for name, generator in self.residency.generators().items()},
                "store": None if self._store is None else self._store.stats(),
                "jobs": self._jobs.stats(),
            }
        )

    async def _version(self, request: web.Request) -> web.StreamResponse:
        return json({"version": __version__})

    async def _submit_eval(self, request: web.Request) -> web.StreamResponse:
        asked = await body_of(request, EvalRequest)
        self.catalogue.find(asked.model)
        if bool(asked.dataset) == bool(asked.examples):
            raise RefusedError(
                "Either `examples` or `dataset` says what is asked.", hint="Give one of them.", code="invalid", param="dataset"
            )
        examples = asked.examples or await asyncio.to_thread(read_set, asked.dataset, self._config.roots, asked.max_samples)
        return self._submitted(self._jobs.submit_eval(asked, examples))

    async def _submit_data(self, request: web.Request) -> web.StreamResponse:
        asked = await body_of(request, DataRequest)
        self.catalogue.find(asked.model)
        return self._submitted(self._jobs.submit_data(asked))

    def _submitted(self, job: Any) -> web.Response:
        return json({"job_id": job.id, **msgspec.to_builtins(job)}, 202)

    async def _list_jobs(self, request: web.Request) -> web.StreamResponse:
        return json({"jobs": self._jobs.all()})

    async def _job_stats(self, request: web.Request) -> web.StreamResponse:
        return json(self._jobs.stats())

    async def _job(self, request: web.Request) -> web.StreamResponse:
        return json(self._jobs.find(request.match_info["id"]))

    async def _job_result(self, request: web.Request) -> web.StreamResponse:
        job = self._jobs.find(request.match_info["id"])
        if job.result is None:
            raise RefusedError(f"The job is {job.state}. {job.error}".strip(), hint="Ask for its state until it is done.", code="conflict")
        return json(job.result)

    async def _cancel_job(self, request: web.Request) -> web.StreamResponse:
        return json(self._jobs.cancel(request.match_info["id"]))

    async def _gpu(self, request: web.Request) -> web.StreamResponse:
        gpus, reason = await asyncio.to_thread(self._gpus.read)
        return json({"gpus": gpus, "reason": reason})

    async def _system(self, request: web.Request) -> web.StreamResponse:
        return json(await asyncio.to_thread(machine.system, self._config.store))

    async def _power(self, request: web.Request) -> web.StreamResponse:
        return json(await asyncio.to_thread(self._gpus.power))

    async def _set_power(self, request: web.Request) -> web.StreamResponse:
        asked = await body_of(request, Power)
        await asyncio.to_thread(self._gpus.set_profile, asked.profile, asked.gpu)
        log.info("power profile %s", asked.profile)
        return json(await asyncio.to_thread(self._gpus.power))

    async def _log(self, request: web.Request) -> web.StreamResponse:
        given = request.query.get("lines", "100")
        count = int(given) if given.isascii() and given.isdigit() and len(given) < 6 else 100
        return json({"lines": list(self.logs.lines)[-count:] if count else []})
