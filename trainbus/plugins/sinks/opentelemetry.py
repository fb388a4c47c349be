"""The sink `opentelemetry`: every point of every series as a gauge, with its own time, by OTLP over HTTP.

The SDK's own reader would export what a gauge holds every minute, and lose the points between; so its data model is filled here and handed
to its exporter. OTLP has no idempotence: a crash between an answer and the next commit of the cursor repeats that batch, with
the same times, which back ends take as the same samples.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from trainbus.bus import events
from trainbus.errors import ConfigError
from trainbus.hookspecs import Context
from trainbus.plugins.sinks.config import OpenTelemetryConfig, SinkConfig
from trainbus.plugins.sinks.outflow import SinkError, Writer
from trainbus.plugins.sinks.plugin import SinkPlugin, library
from trainbus.plugins.sinks.points import NO_RUN, Point, points
from trainbus.version import __version__

ALERTS = "trainbus.alert"
STEP = "trainbus.step"


class OpenTelemetryWriter:
    """Requests, each answered before the next.

    Args:
        model: The module `opentelemetry.sdk.metrics.export`.
        exporter: An OTLP exporter.
        resource: An SDK resource.
        scope: An SDK instrumentation scope.
        endpoint: For messages.
    """

    def __init__(self, model: Any, exporter: Any, resource: Any, scope: Any, endpoint: str) -> None:
        self._model = model
        self._exporter = exporter
        self._resource = resource
        self._scope = scope
        self._endpoint = endpoint

    def position(self) -> None:
        """A collector can't say: the bus keeps it."""

    def write(self, batch: Sequence[events.AnyEvent], upto: int) -> None:
        """One request.

        Raises:
            SinkError: It was refused, or nobody answered.
        """
        series: dict[str, list[Any]] = {}
        for event in batch:
            for point, attributes in samples(event):
                sample = self._model.NumberDataPoint(
                    attributes=attributes, start_time_unix_nano=0, time_unix_nano=point.time, value=point.value
                )
                series.setdefault(point.name, []).append(sample)
        if not series:
            return
        metrics = [self._model.Metric(name, "", "", self._model.Gauge(some)) for name, some in series.items()]
        scoped = self._model.ScopeMetrics(scope=self._scope, metrics=metrics, schema_url="")
        data = self._model.MetricsData([self._model.ResourceMetrics(resource=self._resource, scope_metrics=[scoped], schema_url="")])
        if self._exporter.export(data) is not self._model.MetricExportResult.SUCCESS:
            raise SinkError(f"{self._endpoint} did not take the metrics.", hint="Does a collector listen there?")

    def close(self) -> None:
        """Close its connections."""
        self._exporter.shutdown()


def samples(event: events.AnyEvent) -> list[tuple[Point, Mapping[str, str]]]:
    """The points of an event with their attributes; an alert is a point of 1 while it stands, of 0 when it is cleared."""
    run = {"trainbus.run": event.run or NO_RUN}
    if isinstance(event, events.Alert):
        value = 0.0 if event.state == "cleared" else 1.0
        attributes = {**run, "rule": event.rule, "severity": event.severity, "id": event.id}
        return [(Point(event.run, ALERTS, value, event.step, event.time), attributes)]
    found = [(point, run) for point in points(event)]
    if isinstance(event, events.Step):
        found.append((Point(event.run, STEP, event.step, event.step, event.time), run))
    return [(Point(point.run, _name(point.name), point.value, point.step, point.time), attributes) for point, attributes in found]


def _name(series: str) -> str:
    return series if series.startswith("trainbus.") else f"trainbus.{series.replace('/', '.')}"


class OpenTelemetrySink(SinkPlugin):
    """``plugins = ["opentelemetry"]``."""

    schema: ClassVar[type[SinkConfig]] = OpenTelemetryConfig
    kinds: ClassVar[frozenset[str]] = frozenset({"step", "eval", "metric", "system", "alert"})

    def open(self, context: Context) -> Writer:
        """The exporter."""
        config: OpenTelemetryConfig = context.config
        headers = _headers(config.headers_env)
        model = library("opentelemetry.sdk.metrics.export", "opentelemetry")
        otlp = library("opentelemetry.exporter.otlp.proto.http.metric_exporter", "opentelemetry")
        resource = library("opentelemetry.sdk.resources", "opentelemetry").Resource({"service.name": config.service})
        scope = library("opentelemetry.sdk.util.instrumentation", "opentelemetry").InstrumentationScope("trainbus", __version__)
        exporter = otlp.OTLPMetricExporter(endpoint=config.endpoint, headers=headers, timeout=config.timeout)
        return OpenTelemetryWriter(model, exporter, resource, scope, config.endpoint)


def _headers(variable: str) -> dict[str, str]:
    """Headers from the environment.

    Raises:
        ConfigError: The variable is not set, or says something else. Its value is never shown.
    """
    if not variable:
        return {}
    key = "plugin.opentelemetry.headers_env"
    said = os.environ.get(variable, "").strip()
    if not said:
        hint = "Set it in the environment of `trainbus up`."
        raise ConfigError(f"{key}: the environment variable {variable} is not set.", hint=hint, key=key, found=variable)
    pairs = [pair.partition("=") for pair in said.split(",")]
    if not all(name.strip() and sign for name, sign, _ in pairs):
        raise ConfigError(f"{key}: {variable} holds no headers.", hint="Write name=value,name=value.", key=key, found=variable)
    return {name.strip(): value.strip() for name, _, value in pairs}
