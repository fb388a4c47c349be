"""What can be set in ``[plugin.web]``."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from msgspec import Meta, Struct, field

from trainbus.errors import ConfigError

DEFAULT_PORT = 8420
PORTS_TRIED = 20
"""How many ports from `DEFAULT_PORT` on are tried before the system chooses one."""


class WebConfig(Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Settings of the dashboard.

    Args:
        bind: Address to listen on. On any but a loopback address a token is demanded.
        port: None takes 8420 or the next free one; 0 lets the system choose; a number is taken or refused.
        token: Who knows it may read. Empty: everybody who reaches the port (loopback only).
        operator_token: Who knows it may also steer runs. Empty: with a ``token`` nobody may, without one everybody who reaches the port,
            or, where that is no loopback address, who has the token that the dashboard then makes.
        steering: False takes the buttons away from everybody and refuses their requests.
        allowed_hosts: Further names under which browsers reach this server, as in their Host header, without port.
        points_per_series: Above it a series is thinned (minima and maxima stay), so that memory doesn't follow the run's length.
        points: Limit of the points of all series together, 16 bytes each; above it the longest are thinned, too.
        runs: How many runs are kept in memory; of more, the ones that were silent longest are left out.
        samples: Samples kept for each run.
        inbox: Folder for files that an operator drops onto the page. Empty: that of the trainer of this state directory.
        upload_bytes: Largest such file; 0 takes none.
    """

    bind: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] | None = None
    token: str = ""
    operator_token: str = ""
    steering: bool = True
    allowed_hosts: list[str] = field(default_factory=list)
    points_per_series: Annotated[int, Meta(ge=1_000, le=10_000_000)] = 200_000
    points: Annotated[int, Meta(ge=10_000, le=1_000_000_000)] = 5_000_000
    runs: Annotated[int, Meta(ge=1, le=10_000)] = 200
    samples: Annotated[int, Meta(ge=0, le=10_000)] = 100
    inbox: str = ""
    upload_bytes: Annotated[int, Meta(ge=0, le=10 * 1024**3)] = 1024**3


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach the address."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def check(config: WebConfig) -> None:
    """Refuse what is well-typed but unsafe.

    Raises:
        ConfigError: Every reader could steer.
    """
    if config.token and config.token == config.operator_token:
        raise ConfigError(
            "plugin.web.token and plugin.web.operator_token are the same, so that every reader could steer.",
            hint="Choose another operator_token, or leave out the token.",
            key="plugin.web.operator_token",
        )
