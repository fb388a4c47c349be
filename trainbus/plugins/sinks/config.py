"""``[plugin.NAME]`` of every sink. The descriptions are the documentation."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

Pattern: TypeAlias = Annotated[str, Meta(min_length=1)]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200)]
Path: TypeAlias = Annotated[str, Meta(min_length=1)]
Seconds: TypeAlias = Annotated[float, Meta(gt=0, le=3600)]
Batch: TypeAlias = Annotated[int, Meta(ge=1, le=100_000)]
Port: TypeAlias = Annotated[int, Meta(ge=0, le=65_535)]


class SinkConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What all sinks have."""

    runs: Annotated[tuple[Pattern, ...], Meta(description="Names or patterns of the runs that are handed on.")] = ("*",)
    interval: Annotated[Seconds, Meta(description="Seconds after which what has come is written, however little.")] = 1.0
    batch: Annotated[Batch, Meta(description="Events after which it is written at once; as many are in memory at most.")] = 1000


class JsonlConfig(SinkConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.jsonl]``."""

    directory: Annotated[str, Meta(description="Folder of the files, one for each run; empty: `plugins/jsonl/files` in TRAINBUS_HOME.")] = (
        ""
    )


class ParquetConfig(SinkConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.parquet]``."""

    directory: Annotated[
        str, Meta(description="Folder of the files, one folder for each run; empty: `plugins/parquet/files` in TRAINBUS_HOME.")
    ] = ""
    interval: Annotated[Seconds, Meta(description="Seconds after which what has come becomes a file, however little.")] = 60.0
    batch: Annotated[Batch, Meta(description="Events after which it becomes a file at once; as many are in memory at most.")] = 20_000


class TensorboardConfig(SinkConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.tensorboard]``."""

    directory: Annotated[
        str, Meta(description="Folder for `tensorboard --logdir`, one folder in it for each run; empty: `plugins/tensorboard/files`.")
    ] = ""


class WandbConfig(SinkConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.wandb]``."""

    directory: Annotated[
        str, Meta(description="Folder of the offline runs, for `wandb sync`; empty: `plugins/wandb/files` in TRAINBUS_HOME.")
    ] = ""
    project: Annotated[Name, Meta(description="Project that the runs are of.")] = "trainbus"
    entity: Annotated[str, Meta(max_length=200, description="Team or user that they are of; empty: whoever syncs them.")] = ""


class MlflowConfig(SinkConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.mlflow]``."""

    tracking_uri: Annotated[
        str, Meta(description="Database or server, as MLflow names it; empty: `mlflow.db` in the plugin's folder of TRAINBUS_HOME.")
    ] = ""
    experiment: Annotated[Name, Meta(description="Experiment that the runs are of; made when there is none.")] = "trainbus"


class TrackioConfig(SinkConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.trackio]``."""

    project: Annotated[str, Meta(pattern=r"^[\w-]{1,100}$", description="Project that the runs are of.")] = "trainbus"
    directory: Annotated[
        str, Meta(description="Trackio's folder (TRACKIO_DIR); empty: the one that Trackio itself uses, so that `trackio show` finds it.")
    ] = ""


class PrometheusConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.prometheus]``."""

    runs: Annotated[tuple[Pattern, ...], Meta(description="Names or patterns of the runs that are shown.")] = ("*",)
    host: Annotated[str, Meta(description="Address on which /metrics answers. Any but a loopback address needs a token.")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="Its port; 0: the system chooses, and `trainbus status` tells it.")] = 9464
    token_file: Annotated[
        str, Meta(description="File (mode 0600) with the token that `Authorization: Bearer` must carry; empty: no token.")
    ] = ""
    keep: Annotated[
        Seconds | Annotated[float, Meta(gt=0, le=1e7)], Meta(description="Seconds for which an ended run's series are still shown.")
    ] = 3600.0


class OpenTelemetryConfig(SinkConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.opentelemetry]``."""

    endpoint: Annotated[str, Meta(pattern=r"^https?://", description="Where OTLP/HTTP metrics go.")] = "http://127.0.0.1:4318/v1/metrics"
    headers_env: Annotated[
        str, Meta(description="Environment variable with headers (`name=value,name=value`): keys of a hosted service are secrets.")
    ] = ""
    service: Annotated[Name, Meta(description="The resource's `service.name`.")] = "trainbus"
    timeout: Annotated[Seconds, Meta(description="Seconds for one delivery.")] = 10.0
