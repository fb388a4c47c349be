"""The state of the bus for Prometheus, read from the store at each scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from trainbus.bus import events
from trainbus.plugins.web.intake import Intake
from trainbus.plugins.web.store import Store

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

METRICS_OF_A_RUN = 50
"""Newest values that are given of one run: each is a series of its own in Prometheus for ever."""


class StoreCollector(Collector):
    """Makes the families anew at each scrape, so nothing stays that the store has forgotten."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def collect(self) -> Iterator[Metric]:
        """All families."""
        store, feed = self._intake.store, self._intake.feed
        stats = store.stats()
        yield CounterMetricFamily("trainbus_events", "Events that the dashboard has taken in.", value=stats.events)
        yield GaugeMetricFamily("trainbus_offset", "Offset of the newest event that is known.", value=stats.position)
        yield GaugeMetricFamily("trainbus_web_streams", "Open event streams.", value=feed.stats().listeners)
        yield CounterMetricFamily("trainbus_web_dropped_streams", "Streams that read too slowly.", value=feed.stats().dropped)
        yield from _runs(store)
        yield from _plugins(store)
        yield from _machines(store)


def exposition(intake: Intake) -> bytes:
    """The text that ``/metrics`` answers."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StoreCollector(intake))
    return generate_latest(registry)


def _runs(store: Store) -> Iterator[Metric]:
    running = GaugeMetricFamily("trainbus_run_running", "1 while the run is running.", labels=["run", "state"])
    step = GaugeMetricFamily("trainbus_run_step", "The run's present step.", labels=["run"])
    total = GaugeMetricFamily("trainbus_run_total_steps", "Steps that the run wants to make.", labels=["run"])
    value = GaugeMetricFamily("trainbus_run_metric", "Newest value of a metric of the run.", labels=["run", "metric"])
    missing = CounterMetricFamily("trainbus_run_missing_events", "Events of the run that are known to be lost.", labels=["run"])
    alerts = GaugeMetricFamily("trainbus_run_open_alerts", "Alerts that are not cleared.", labels=["run", "severity"])
    for run in store.runs.values():
        running.add_metric([run.run, run.state or "unknown"], float(run.state == "running"))
        missing.add_metric([run.run], run.gaps)
        if run.step is not None:
            step.add_metric([run.run], run.step)
        if run.total_steps is not None:
            total.add_metric([run.run], run.total_steps)
        for name, newest in list(run.latest().items())[:METRICS_OF_A_RUN]:
            value.add_metric([run.run, name], float("nan") if newest is None else newest)
        for severity in ("info", "warning", "critical"):
            count = sum(alert.severity == severity and alert.state != "cleared" for alert in run.alerts.values())
            alerts.add_metric([run.run, severity], count)
    yield from (running, step, total, value, missing, alerts)


def _plugins(store: Store) -> Iterator[Metric]:
    up = GaugeMetricFamily("trainbus_plugin_running", "1 while the plugin runs.", labels=["plugin", "state"])
    restarts = CounterMetricFamily("trainbus_plugin_restarts", "Restarts of the plugin.", labels=["plugin"])
    letters = CounterMetricFamily("trainbus_plugin_dead_letters", "Events that the plugin could not handle.", labels=["plugin"])
    lag = GaugeMetricFamily("trainbus_plugin_lag", "Events that the plugin is behind.", labels=["plugin"])
    for plugin in store.plugins.values():
        up.add_metric([plugin.name, plugin.state], float(plugin.state == "running"))
        restarts.add_metric([plugin.name], plugin.restarts)
        letters.add_metric([plugin.name], plugin.dead_letters)
        if plugin.lag is not None:
            lag.add_metric([plugin.name], plugin.lag)
    yield from (up, restarts, letters, lag)


def _machines(store: Store) -> Iterator[Metric]:
    memory = GaugeMetricFamily("trainbus_memory_bytes", "Memory of the machine.", labels=["host", "memory", "part"])
    for system in store.systems.values():
        for name, part in (("ram", system.memory), ("swap", system.swap)):
            if part is not None:
                memory.add_metric([system.host, name, "total"], part.total)
                memory.add_metric([system.host, name, "used"], part.used)
    yield memory
    yield from _gpus(store.systems.values())


def _gpus(systems: Iterable[events.System]) -> Iterator[Metric]:
    labels = ["host", "gpu"]
    used = GaugeMetricFamily("trainbus_gpu_memory_used_bytes", "Memory of the GPU that is in use.", labels=labels)
    busy = GaugeMetricFamily("trainbus_gpu_utilization_percent", "Share of time in which the GPU was busy.", labels=labels)
    heat = GaugeMetricFamily("trainbus_gpu_temperature_celsius", "Temperature of the GPU.", labels=labels)
    for system in systems:
        for gpu in system.gpus:
            for family, value in ((used, gpu.memory_used), (busy, gpu.utilization), (heat, gpu.temperature)):
                if value is not None:
                    family.add_metric([system.host, str(gpu.index)], value)
    yield from (used, busy, heat)
