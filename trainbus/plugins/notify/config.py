"""``[plugin.notify]``: where messages go, which ones, and how many."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from trainbus.bus.events import RunOutcome, Severity

Pattern: TypeAlias = Annotated[str, Meta(min_length=1)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=1e7)]
Clock: TypeAlias = Annotated[str, Meta(pattern=r"^$|^([01]\d|2[0-3]):[0-5]\d$")]


class ChannelConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One table ``[[plugin.notify.channels]]``. A URL is a secret: it comes from the environment or from a file that only you can read.

    Args:
        name: By which routes name it.
        type: desktop (notify-send), webhook (an HTTP POST of JSON), apprise (every service that the apprise library knows).
        url_env: Environment variable with the URL.
        url_file: File with the URL, mode 0600.
        token_env: Environment variable with a token for a webhook's ``Authorization: Bearer``.
        timeout: Seconds for one delivery.
    """

    name: Pattern
    type: Literal["desktop", "webhook", "apprise"]
    url_env: str = ""
    url_file: str = ""
    token_env: str = ""
    timeout: Annotated[float, Meta(gt=0, le=120)] = 10.0


class RouteConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One table ``[[plugin.notify.routes]]``: what goes to which channels. A message takes every route that fits, a channel only once.

    Args:
        channels: Names of channels; empty for all.
        severities: Of alerts; with none, no alert takes this route.
        rules: Names or patterns of rules.
        runs: Names or patterns of runs.
        outcomes: Ends of runs that are told; with none, none are.
        cleared: Also when an alert is over.
    """

    channels: tuple[Pattern, ...] = ()
    severities: tuple[Severity, ...] = ("warning", "critical")
    rules: tuple[Pattern, ...] = ("*",)
    runs: tuple[Pattern, ...] = ("*",)
    outcomes: tuple[RunOutcome, ...] = ("completed", "failed", "lost")
    cleared: bool = False


class NotifyConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.notify]``.

    Args:
        channels: Where messages go.
        routes: Which ones; without any, all warnings, critical alerts and ends of runs go to all channels.
        limit: At most so many messages to a channel in ``period``; the rest is summed up in one.
        period: Seconds, see ``limit``.
        repeat: Seconds in which the same rule on the same run is not told again, unless it is more severe.
        quiet_from: Local time (hh:mm) from which everything but critical is held back; empty for never.
        quiet_until: Until when; then one summary tells what was held back.
        max_age: Seconds; older events are history and not told.
    """

    channels: tuple[ChannelConfig, ...] = ()
    routes: tuple[RouteConfig, ...] = ()
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 10
    period: Annotated[float, Meta(gt=0, le=1e6)] = 600.0
    repeat: Seconds = 900.0
    quiet_from: Clock = ""
    quiet_until: Clock = ""
    max_age: Seconds = 3600.0
