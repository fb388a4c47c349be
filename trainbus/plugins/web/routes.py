"""The addresses of the API in one table: the server serves them, the OpenAPI description and the documentation tell of them."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from trainbus.plugins.web.answers import Accuracy
from trainbus.plugins.web.checkpoint_board import CheckpointsStats
from trainbus.plugins.web.dropping import Dropped
from trainbus.plugins.web.layouts import Layout
from trainbus.plugins.web.machine_api import GpusStats, MemoryStats
from trainbus.plugins.web.plugin_control import Look
from trainbus.plugins.web.steering import Steer
from trainbus.plugins.web.step_times import StepTimesStats
from trainbus.version import __version__


class Route(msgspec.Struct, frozen=True):
    """One address.

    Args:
        handler: The method that answers: of `trainbus.plugins.web.changes.Changes` when only an ``operator`` may ask, else of
            `trainbus.plugins.web.api.Api`.
        query: Its parameters with what they mean.
        answers: The media type of the answer.
        schema: The shape of the answer, where it is fixed.
        takes: The media type of what is sent.
    """

    path: str
    handler: str
    summary: str
    query: tuple[tuple[str, str], ...] = ()
    answers: str = "application/json"
    schema: Any = None
    method: Literal["GET", "POST"] = "GET"
    body: Any = None
    takes: str = "application/json"
    operator: bool = False


RUN_QUERY = ("run", "Id of a run; left out: the run that was heard of last.")
SEARCH = ("search", "Only entries that contain this text, in any case.")
LIMIT = ("limit", "At most so many entries.")
POINTS = ("points", "At most so many points of each series; minima and maxima stay (4 to 10,000, default 1,000).")

ROUTES = (
    Route("/healthz", "healthz", "The server lives: how much it holds, and whether it has read the history."),
    Route("/readyz", "readyz", "200 once the history is read, 503 before."),
    Route("/metrics", "metrics", "Runs, plugins and machines for Prometheus.", answers="text/plain"),
    Route("/api/openapi.json", "openapi", "This description."),
    Route(
        "/api/state",
        "state",
        "All that a page needs at first: runs, one run, plugins, machines, alerts of the bus, the visitor's role.",
        (RUN_QUERY, ("lists", "no: without the run's lists; `versions` tells which of them have changed.")),
    ),
    Route("/api/runs", "runs", "All runs: state, health with reason, step, pace, time left, shape of the loss."),
    Route("/api/runs/{run}", "run", "All that is known of one run but its series."),
    Route(
        "/api/runs/{run}/series",
        "series",
        "Metrics of a run, down-sampled.",
        (("metric", "Name of a metric; may be given up to 50 times."), POINTS, ("from", "First step."), ("to", "Last step.")),
    ),
    Route(
        "/api/runs/{run}/lists/{list}",
        "run_list",
        "One list of a run, newest first: alerts, checkpoints, evals, samples, commands or jobs.",
        (SEARCH, LIMIT),
    ),
    Route(
        "/api/runs/{run}/checkpoints",
        "checkpoints",
        "Checkpoints of a run with what is to become of each and why, the highest step first, and the disks that hold them.",
        schema=CheckpointsStats,
    ),
    Route(
        "/api/runs/{run}/export",
        "export",
        "Series as a file, each point once: loss, memory, accuracy, or the metrics that are named.",
        (("format", "csv or json."), ("metric", "Name of a metric; may be given up to 50 times.")),
        "text/csv",
    ),
    Route(
        "/api/runs/{run}/commands",
        "command",
        "Ask a run for something, or with `plugin` retention to do something with one of its checkpoints; the answer names the command.",
        method="POST",
        body=Steer,
        operator=True,
    ),
    Route("/api/runs/{run}/step_times", "step_times", "Histogram of the times that the steps of a run took.", schema=StepTimesStats),
    Route("/api/plugins", "plugins", "Plugins that are installed where the supervisor runs.", schema=dict[str, Any], operator=True),
    Route(
        "/api/plugins/{plugin}/log",
        "plugin_log",
        "The last lines that a plugin printed.",
        (("lines", "At most so many (up to 2,000, default 200)."),),
        schema=dict[str, Any],
        operator=True,
    ),
    Route(
        "/api/plugins/{plugin}",
        "plugin",
        "Add, remove or restart a plugin; the answer tells how it stands then.",
        schema=dict[str, Any],
        method="POST",
        body=Look,
        operator=True,
    ),
    Route(
        "/api/inbox",
        "drop",
        "Put a file into the trainer's inbox: its bytes are the body.",
        (("name", "Its name; what could mislead is replaced."), ("priority", "high, normal or low.")),
        schema=Dropped,
        method="POST",
        body=bytes,
        takes="application/octet-stream",
        operator=True,
    ),
    Route("/api/panels/{plugin}/{panel}", "panel", "Rows of a panel that a plugin declares, oldest first.", (("run", "Id of a run."),)),
    Route(
        "/api/events",
        "events",
        "Server-sent events: all after an offset, then live, without a gap.",
        (("after", "Offset; left out: from now on. The header Last-Event-ID wins."),),
        "text/event-stream",
    ),
    Route(
        "/api/history",
        "history",
        "Events of the journal, the newest first: `events`; `next` is the `before` of those behind them, null when there are none.",
        (
            ("search", "Only events that contain each of these words, in any case."),
            ("kind", "Only events of this kind; may be given several times."),
            ("run", "Only events of this run; may be given several times."),
            ("before", "Only events before this offset; left out: from the newest on."),
            LIMIT,
        ),
        schema=dict[str, Any],
    ),
    Route("/api/layout", "layout", "How the visitor has arranged the page; null when he has not.", schema=Layout | None),
    Route("/api/layout", "keep_layout", "Keep how the visitor has arranged the page.", schema=Layout, method="POST", body=Layout),
    Route("/api/memory_stats", "memory_stats", "Memory of a machine.", (("host", "Left out: the newest reading."),), schema=MemoryStats),
    Route("/api/gpu_stats", "gpu_stats", "GPUs of all machines; null when no machine has any.", schema=GpusStats),
    Route("/api/config", "config", "Configuration of a run.", (RUN_QUERY,), schema=dict[str, Any]),
    Route("/api/accuracy", "accuracy", "Running accuracy of a run.", (RUN_QUERY,), schema=Accuracy),
    Route("/api/inbox_files", "inbox_files", "Data files of a run's queue with their states.", (RUN_QUERY,), schema=dict[str, Any]),
    Route("/api/inbox_samples", "inbox_samples", "The newest samples by data set.", (RUN_QUERY, LIMIT), schema=dict[str, Any]),
    Route(
        "/api/flagged",
        "flagged",
        "Samples that deserve a look, newest first: wrong, confidently_wrong, regressed, unsure.",
        (RUN_QUERY, ("reason", "Only those that were flagged for it."), LIMIT),
        schema=dict[str, Any],
    ),
    Route(
        "/api/evolution",
        "evolution",
        "How the answers to one example changed over the checkpoints; without `example` all that are followed.",
        (RUN_QUERY, ("example", "Name of an example.")),
        schema=dict[str, Any],
    ),
)


def described() -> dict[str, Any]:
    """The OpenAPI description of `ROUTES`."""
    types = [kind for route in ROUTES for kind in (route.schema, route.body) if kind is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    shapes = dict(zip(map(str, types), schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, shapes)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "trainbus dashboard",
            "version": __version__,
            "description": "Times are nanoseconds since the epoch, durations seconds, sizes bytes. "
            "Numbers that JSON can't say are null, and `not_finite` names their paths.",
        },
        "components": {
            "schemas": components | {"Problem": {"type": "object", "properties": {"problem": {"type": "string"}}, "required": ["problem"]}},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"bearer": []}],
        "paths": paths,
    }


def _operation(route: Route, shapes: dict[str, Any]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in re.findall(r"{(\w+)}", route.path)
    ] + [{"name": name, "in": "query", "description": text, "schema": {"type": "string"}} for name, text in route.query]
    good = "202" if route.method == "POST" else "200"
    shape = shapes[str(route.schema)] if route.schema is not None else {}
    refusal = {
        "description": "Refused, with the reason.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    operation: dict[str, Any] = {
        "operationId": route.handler,
        "summary": route.summary,
        "parameters": parameters,
        "responses": {good: {"description": "The answer.", "content": {route.answers: {"schema": shape}}}, "4XX": refusal},
    }
    if route.body is not None:
        taken = {} if route.body is bytes else shapes[str(route.body)]
        operation["requestBody"] = {"required": True, "content": {route.takes: {"schema": taken}}}
    return operation
