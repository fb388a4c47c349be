"""The configuration file `trainbus.toml`: its sections, types, ranges, defaults and what each setting means.

The descriptions are the documentation: ``trainbus init``, ``trainbus config show`` and docs/configuration.md print them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct, field

Seconds: TypeAlias = Annotated[float, Meta(gt=0, le=86_400)]
Port: TypeAlias = Annotated[int, Meta(ge=0, le=65_535)]
Count: TypeAlias = Annotated[int, Meta(ge=1)]
Bytes: TypeAlias = Annotated[int, Meta(ge=1)]


class BusConfig(Struct, kw_only=True, forbid_unknown_fields=True):
    """``[bus]``. Durations are seconds, sizes bytes. A port of 0 lets the system choose."""

    bind: Annotated[
        str, Meta(description="Address on which the broker listens. Any but a loopback address needs keys (`trainbus keys`).")
    ] = "127.0.0.1"
    router_port: Annotated[Port, Meta(description="Port for events in, history, cursors, leases and commands; 0: the system chooses.")] = 0
    xpub_port: Annotated[Port, Meta(description="Port of the fan-out; 0: the system chooses.")] = 0
    synchronous: Annotated[
        Literal["FULL", "NORMAL", "OFF"],
        Meta(description="SQLite's. FULL: acknowledged events survive a power cut. Less is faster and loses the last events then."),
    ] = "FULL"
    flush_interval: Annotated[float, Meta(ge=0, le=10, description="How long a publisher gathers events before it sends a batch.")] = 0.05
    heartbeat_interval: Annotated[Seconds, Meta(description="Between signs of life of publishers and broker.")] = 1.0
    lost_after: Annotated[Seconds, Meta(description="Silence after which a run is reported as lost.")] = 15.0
    spool_segment_bytes: Annotated[int, Meta(ge=65_536, description="Size of one file of a publisher's spool, allocated at once.")] = (
        8 * 1024 * 1024
    )
    spool_bytes: Annotated[
        Bytes, Meta(description="Largest spool of one publisher; beyond it events are dropped, and a gap event says so.")
    ] = 1024 * 1024 * 1024
    memory_events: Annotated[Count, Meta(description="Events that a publisher keeps in memory when it can't have a spool (disk full).")] = (
        10_000
    )
    fanout_high_water_mark: Annotated[
        Count, Meta(description="Messages queued for one slow subscriber; beyond it, it reads the journal.")
    ] = 10_000
    journal_max_age: (
        Annotated[
            float, Meta(gt=0, description="Older events are deleted. A consumer that still had to read them gets a gap event that says so.")
        ]
        | None
    ) = None
    journal_max_bytes: Annotated[Bytes, Meta(description="Beyond this size the oldest events are deleted, in the same way.")] | None = None
    max_deliver: Annotated[Count, Meta(description="Times that a plugin may die on an event before it goes to its dead letters.")] = 3
    stuck_after: Annotated[Seconds, Meta(description="Time without progress after which a plugin counts as stuck and is restarted.")] = (
        300.0
    )
    stop_timeout: Annotated[Seconds, Meta(description="Time that a plugin has to end by itself before it is killed.")] = 10.0
    log_bytes: Annotated[Bytes, Meta(description="Size at which a kept log is rotated.")] = 10 * 1024 * 1024
    log_files: Annotated[Count, Meta(description="Files of one log, the one that is being written included.")] = 5
    logs_bytes: Annotated[
        Bytes, Meta(description="Size of all kept logs together; beyond it the oldest that nobody writes to are deleted.")
    ] = 1024 * 1024 * 1024


class Config(Struct, kw_only=True, forbid_unknown_fields=True):
    """The whole file. ``[trainer]`` and ``[plugin.NAME]`` are validated by those who own them."""

    plugins: Annotated[list[str], Meta(description="The plugins that `trainbus up` starts. Installed is not enabled.")] = field(
        default_factory=list
    )
    bus: BusConfig = field(default_factory=BusConfig)
    trainer: dict[str, Any] = field(default_factory=dict)
    plugin: dict[str, dict[str, Any]] = field(default_factory=dict)
