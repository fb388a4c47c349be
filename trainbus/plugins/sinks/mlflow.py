"""The sink `mlflow`: a run of MLflow for each run, with its metrics, parameters and end.

An SQL store (SQLite, a tracking server with a database) passes over a metric that it has with the same name, step, time and value: what a
crash repeats changes nothing. Its times are milliseconds and its infinities the largest numbers that there are; NaN stays NaN.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from trainbus.bus import events
from trainbus.bus.jsonable import to_json
from trainbus.errors import ConfigError
from trainbus.hookspecs import Context
from trainbus.plugins.sinks.config import MlflowConfig, SinkConfig
from trainbus.plugins.sinks.ledger import file_name
from trainbus.plugins.sinks.outflow import SinkError, Writer
from trainbus.plugins.sinks.plugin import SinkPlugin, library
from trainbus.plugins.sinks.points import NO_RUN, Point, flat, points

TAG = "trainbus.run"
"""The tag by which a run is found again."""
MAX_METRICS, MAX_PARAMETERS, MAX_TEXT, MAX_NAME = 1000, 100, 6000, 250
"""MLflow's limits for one request, a parameter and a name."""
STATUS = {"completed": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "lost": "FAILED"}
FORBIDDEN = re.compile(r"[^\w\-. :/]")


class MlflowWriter:
    """Calls of MLflow's client, which return when the store has committed.

    Args:
        client: `mlflow.MlflowClient`.
        entities: The module `mlflow.entities`.
        experiment: Its name.
    """

    def __init__(self, client: Any, entities: Any, experiment: str) -> None:
        self._client = client
        self._entities = entities
        self._experiment = experiment
        self._experiment_id = ""
        self._runs: dict[str, str] = {}

    def position(self) -> None:
        """MLflow can't say: the bus keeps it."""

    def write(self, batch: Sequence[events.AnyEvent], upto: int) -> None:
        """Metrics of the whole batch, in the order of what happens to the runs."""
        gathered: dict[str, list[Point]] = {}
        for event in batch:
            run = file_name(event.run or NO_RUN)
            if isinstance(event, events.RunStarted):
                self._flush(run, gathered)
                self._started(run, event)
            elif isinstance(event, events.RunEnded):
                self._flush(run, gathered)
                self._client.set_terminated(self._run(run, event.time), STATUS[event.outcome], _milliseconds(event.time))
            else:
                gathered.setdefault(run, []).extend(points(event))
        for run in list(gathered):
            self._flush(run, gathered)

    def close(self) -> None:
        """The client holds nothing."""

    def _flush(self, run: str, gathered: dict[str, list[Point]]) -> None:
        found = gathered.pop(run, [])
        for start in range(0, len(found), MAX_METRICS):
            some = found[start : start + MAX_METRICS]
            metrics = [self._entities.Metric(name(point.name), point.value, _milliseconds(point.time), point.step or 0) for point in some]
            self._client.log_batch(self._run(run, some[0].time), metrics=metrics)

    def _started(self, run: str, event: events.RunStarted) -> None:
        identity = self._run(run, event.time)
        known = self._client.get_run(identity)
        # A parameter never changes in MLflow; a run that is resumed with another configuration keeps the first.
        wanted = {name(key): _text(value) for key, value in flat(event.config)}
        new = [self._entities.Param(key, value) for key, value in wanted.items() if key not in known.data.params]
        for start in range(0, len(new), MAX_PARAMETERS):
            self._client.log_batch(identity, params=new[start : start + MAX_PARAMETERS])
        if known.info.status != "RUNNING":
            self._client.update_run(identity, status="RUNNING")

    def _run(self, run: str, time: int) -> str:
        """The id of a run in MLflow: found by its tag, or made."""
        if run not in self._runs:
            found = self._client.search_runs([self._experiment_of()], f"tags.`{TAG}` = '{run}'", max_results=1)
            made = found[0] if found else self._client.create_run(self._experiment_of(), _milliseconds(time), {TAG: run}, run_name=run)
            self._runs[run] = made.info.run_id
        return self._runs[run]

    def _experiment_of(self) -> str:
        if not self._experiment_id:
            found = self._client.get_experiment_by_name(self._experiment)
            if found is not None and found.lifecycle_stage != "active":
                hint = f"Restore it (`mlflow experiments restore -x {found.experiment_id}`), or name another one."
                raise SinkError(f"The experiment {self._experiment!r} of MLflow is deleted.", hint=hint)
            self._experiment_id = found.experiment_id if found is not None else self._client.create_experiment(self._experiment)
        return self._experiment_id


def name(key: str) -> str:
    """A name that MLflow takes."""
    return FORBIDDEN.sub("_", key)[:MAX_NAME].lstrip("/.") or "_"


def _milliseconds(time: int) -> int:
    return time // 1_000_000


def _text(value: Any) -> str:
    return (value if isinstance(value, str) else to_json(value).decode())[:MAX_TEXT]


class MlflowSink(SinkPlugin):
    """``plugins = ["mlflow"]``."""

    schema: ClassVar[type[SinkConfig]] = MlflowConfig
    kinds: ClassVar[frozenset[str]] = frozenset({"step", "eval", "metric", "system", "run_started", "run_ended"})

    def open(self, context: Context) -> Writer:
        """The client, of a store that has a database behind it.

        Raises:
            ConfigError: A folder of files: that one keeps a metric twice that comes twice.
        """
        uri: str = context.config.tracking_uri or f"sqlite:///{context.directory / 'mlflow.db'}"
        if "://" not in uri or uri.startswith("file:"):
            key = "plugin.mlflow.tracking_uri"
            hint = f"Name a database, sqlite:///{Path(uri.removeprefix('file://')).expanduser() / 'mlflow.db'} for example, or a server."
            raise ConfigError(f"{key}: {uri} is a folder of files, in which a crash would repeat points.", hint=hint, key=key, found=uri)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        tracking, entities = library("mlflow.tracking", "mlflow"), library("mlflow.entities", "mlflow")
        if uri.startswith("sqlite:"):
            library("sqlalchemy", "mlflow")
        return MlflowWriter(tracking.MlflowClient(tracking_uri=uri), entities, context.config.experiment)
