"""The sink `prometheus`: ``/metrics`` in Prometheus' text format, made by its client library when it is asked for."""

from __future__ import annotations

import hmac
import ipaddress
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import msgspec

from trainbus.bus import events
from trainbus.errors import ConfigError
from trainbus.hookspecs import Context, hookimpl
from trainbus.plugins.sinks.config import PrometheusConfig
from trainbus.plugins.sinks.exposition import Exposition
from trainbus.plugins.sinks.plugin import library, wants

STATE_PREFIX = "run/"
"""One key of the state for each run: only those that changed are written."""
TIMER = 10.0
"""Seconds between two looks for runs that are no longer shown."""
STATES = ("running", "completed", "stopped", "failed", "lost")


class PrometheusSink:
    """``plugins = ["prometheus"]``. Prometheus asks; what it has not asked for between two events is gone, as it is for every gauge."""

    def __init__(self) -> None:
        self._exposition = Exposition()
        self._turn = threading.Lock()
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    @hookimpl
    def config_schema(self) -> type[msgspec.Struct]:
        """``[plugin.prometheus]``."""
        return PrometheusConfig

    @hookimpl
    def start(self, context: Context) -> None:
        """Take back what was shown, and listen.

        Raises:
            ConfigError: The address needs a token, the token's file is open to others, or the port is taken.
        """
        config: PrometheusConfig = context.config
        token = token_of(config)
        client = library("prometheus_client", "prometheus")
        try:
            stored = {key.removeprefix(STATE_PREFIX): context.state[key] for key in context.state if key.startswith(STATE_PREFIX)}
            self._exposition = msgspec.convert({"runs": stored}, Exposition)
        except msgspec.ValidationError as error:
            context.logger.warning("What was shown before can't be read and starts anew: %s", error)
        self._store(context)
        registry = client.CollectorRegistry(auto_describe=False)
        registry.register(self)
        try:
            self._server = make_server(
                config.host, config.port, guarded(client.make_wsgi_app(registry), token), server_class=_Server, handler_class=_Handler
            )
        except OSError as error:
            problem = f"plugin.prometheus: {config.host}:{config.port} can't be listened on: {error.strerror}."
            raise ConfigError(problem, hint="Name another port; 0 lets the system choose.", key="plugin.prometheus.port") from error
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="metrics", daemon=True)
        self._thread.start()
        context.announce(url=f"http://{config.host}:{self._server.server_port}/metrics")

    @hookimpl
    def on_event(self, event: events.AnyEvent, context: Context) -> None:
        """Take it in."""
        if event.offset < 0 or not wants(context.config.runs, event.run):
            return
        with self._turn:
            if self._exposition.take(event):
                self._store(context)

    @hookimpl
    def every(self, context: Context) -> float:
        """Drop what ended long ago."""
        with self._turn:
            if self._exposition.forget(time.time(), context.config.keep):
                self._store(context)
        return TIMER

    @hookimpl
    def stop(self, context: Context) -> None:
        """Stop listening."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join(5.0)
            self._server.server_close()

    def collect(self) -> Iterator[Any]:
        """What the client library asks a collector for, from the server's threads."""
        core = library("prometheus_client.core", "prometheus")
        last = core.GaugeMetricFamily("trainbus_metric", "Last value of a series.", labels=("run", "name"))
        step = core.GaugeMetricFamily("trainbus_step", "Last step of a run.", labels=("run",))
        state = core.GaugeMetricFamily("trainbus_run_state", "1 for the state that a run is in.", labels=("run", "state"))
        alerts = core.GaugeMetricFamily("trainbus_alerts", "Alerts that stand.", labels=("run", "rule", "severity"))
        counts = core.CounterMetricFamily("trainbus_events", "Events of a run in the journal.", labels=("run", "kind"))
        dropped = core.CounterMetricFamily("trainbus_points_dropped", "Points of more series than are shown.", labels=("run",))
        with self._turn:
            for name, run in self._exposition.runs.items():
                step.add_metric((name,), run.step)
                dropped.add_metric((name,), run.dropped)
                for one in STATES:
                    state.add_metric((name, one), float(run.state == one))
                for series, value in run.values.items():
                    last.add_metric((name, series), value)
                for kind, count in run.events.items():
                    counts.add_metric((name, kind), count)
                standing: dict[tuple[str, str], int] = {}
                for rule, severity in run.alerts.values():
                    standing[rule, severity] = standing.get((rule, severity), 0) + 1
                for (rule, severity), count in standing.items():
                    alerts.add_metric((name, rule, severity), count)
        yield from (last, step, state, alerts, counts, dropped)

    def _store(self, context: Context) -> None:
        """The state holds the very objects that are shown: what changes in them is committed with the cursor."""
        for key in [key for key in context.state if key.startswith(STATE_PREFIX)]:
            if key.removeprefix(STATE_PREFIX) not in self._exposition.runs:
                del context.state[key]
        for name, run in self._exposition.runs.items():
            context.state[STATE_PREFIX + name] = run


def token_of(config: PrometheusConfig) -> str:
    """The token that a request must carry; empty for none.

    Raises:
        ConfigError: There must be one, or others can read its file.
    """
    key = "plugin.prometheus.token_file"
    if not config.token_file:
        if is_loopback(config.host):
            return ""
        problem = f"plugin.prometheus.host: {config.host} can be reached from elsewhere, and there is no token."
        raise ConfigError(problem, hint="Name a file with one (token_file), or listen on 127.0.0.1.", key=key, found=config.host)
    path = Path(config.token_file).expanduser()
    try:
        mode, token = path.stat().st_mode, path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{key}: {path} can't be read: {error.strerror}.", hint="Write the token into it.", key=key) from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"{key}: others can read {path} (mode {stat.S_IMODE(mode):04o}).", hint=f"chmod 600 {path}", key=key)
    if not token:
        raise ConfigError(f"{key}: {path} is empty.", hint="Write the token into it.", key=key)
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def guarded(app: Callable[..., Iterable[bytes]], token: str) -> Callable[..., Iterable[bytes]]:
    """The app at ``/metrics`` alone, for requests that carry the token."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        offered = environ.get("HTTP_AUTHORIZATION", "")
        if token and not hmac.compare_digest(offered.encode(), f"Bearer {token}".encode()):
            start_response("401 Unauthorized", [("Content-Type", "text/plain"), ("WWW-Authenticate", "Bearer")])
            return [b"A token is needed: Authorization: Bearer ...\n"]
        if environ.get("PATH_INFO") != "/metrics":
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"See /metrics\n"]
        return app(environ, start_response)

    return answer


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = 10
    """Seconds after which a connection that says nothing is closed."""

    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are no news."""
