"""What ``trainbus serve`` is told: plain values, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct, field

from trainbus.errors import ConfigError

MIB = 1 << 20
LOOPBACK = ("127.0.0.1", "::1", "localhost")

POWER_PROFILES: Mapping[str, int] = {"quiet": 220, "normal": 280, "performance": 350}
"""Watts."""


class ServeConfig(Struct, frozen=True, kw_only=True):
    """Settings of one server.

    Args:
        models: Folders of models and adapters by the names under which they are asked for. The first is the active one.
        roots: Models and adapters below these folders may be asked for, or registered, by their paths.
        paths: How others' paths begin, and how the same ones begin here.
        store: Folder for what is uploaded; None: nothing can be.
        store_bytes: Uploads take at most so much: the least recently used go first.
        fetch_from: Hosts (``HOST`` or ``HOST:PORT``) from which files may be fetched into the store.
        device: See `trainbus.serving.loading.load`; so ``dtype``.
        memory_bytes: Weights of loaded models take at most so much; 0: two thirds of what the device has free at the start.
        max_adapters: Adapters that stay loaded over one base.
        max_batch: Answers made at once by one model.
        max_waiting: Requests that wait for one model; more are refused.
        max_seconds: No request takes longer.
        body_bytes: No request but a chunk of an upload is larger.
        threads: CPU threads; None: as torch decides.
        host: Address to bind.
        port: 0 lets the system choose.
        read_keys: Who has one may ask.
        admin_keys: Who has one may also change models, read the log and set power.
        power_profiles: Watts by name.

    Raises:
        ConfigError: Without keys the server would be open to others than this machine, or what it fetches has no place.
    """

    models: Mapping[str, Path] = {}
    roots: tuple[Path, ...] = ()
    paths: Mapping[str, str] = {}
    store: Path | None = None
    store_bytes: int = 50_000 * MIB
    fetch_from: tuple[str, ...] = ()
    device: str = "auto"
    dtype: str = "auto"
    memory_bytes: int = 0
    max_adapters: int = 16
    max_batch: int = 16
    max_waiting: int = 256
    max_seconds: float = 600.0
    body_bytes: int = 4 * MIB
    threads: int | None = None
    host: str = "127.0.0.1"
    port: int = 8790
    read_keys: tuple[str, ...] = ()
    admin_keys: tuple[str, ...] = ()
    power_profiles: Mapping[str, int] = field(default_factory=lambda: dict(POWER_PROFILES))

    def __post_init__(self) -> None:
        if self.host not in LOOPBACK and not self.admin_keys:
            raise ConfigError(
                f"The address {self.host} can be reached from other machines, and there is no key.",
                hint="Give --admin-key-file FILE (and --read-key-file FILE for those who only ask), or bind 127.0.0.1.",
                key="host",
                found=self.host,
            )
        if self.fetch_from and self.store is None:
            raise ConfigError(
                "What is fetched needs a place.", hint="Give --store FOLDER with --fetch-from.", key="fetch_from", found=self.fetch_from
            )
