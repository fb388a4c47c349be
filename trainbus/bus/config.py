"""The configuration file `trainbus.toml`: its sections, types, ranges and defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct, field

Seconds: TypeAlias = Annotated[float, Meta(gt=0, le=86_400)]
Port: TypeAlias = Annotated[int, Meta(ge=0, le=65_535)]
Count: TypeAlias = Annotated[int, Meta(ge=1)]
Bytes: TypeAlias = Annotated[int, Meta(ge=1)]


class BusConfig(Struct, kw_only=True, forbid_unknown_fields=True):
    """``[bus]``. Durations are seconds, sizes bytes. A port of 0 lets the system choose."""

    bind: str = "127.0.0.1"
    router_port: Port = 0
    xpub_port: Port = 0
    synchronous: Literal["FULL", "NORMAL", "OFF"] = "FULL"
    flush_interval: Annotated[float, Meta(ge=0, le=10)] = 0.02
    heartbeat_interval: Seconds = 1.0
    lost_after: Seconds = 15.0
    spool_segment_bytes: Annotated[int, Meta(ge=65_536)] = 8 * 1024 * 1024
    spool_bytes: Bytes = 1024 * 1024 * 1024
    memory_events: Count = 10_000
    fanout_high_water_mark: Count = 10_000
    journal_max_age: Annotated[float, Meta(gt=0)] | None = None
    journal_max_bytes: Bytes | None = None
    max_deliver: Count = 3
    stuck_after: Seconds = 300.0
    stop_timeout: Seconds = 10.0
    log_bytes: Bytes = 10 * 1024 * 1024
    log_files: Count = 5


class Config(Struct, kw_only=True, forbid_unknown_fields=True):
    """The whole file. ``[trainer]`` and ``[plugin.NAME]`` are validated by those who own them."""

    plugins: list[str] = field(default_factory=list)
    bus: BusConfig = field(default_factory=BusConfig)
    trainer: dict[str, Any] = field(default_factory=dict)
    plugin: dict[str, dict[str, Any]] = field(default_factory=dict)
