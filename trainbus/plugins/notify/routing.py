"""Which message goes to which channel, and when: routes, repeats, rate limit, quiet hours. No clock and no network here.

What was sent and what is held back is in `Outgoing`, which the plugin keeps in its durable state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from fnmatch import fnmatchcase

from msgspec import Struct, field

from trainbus.bus import events
from trainbus.plugins.notify.config import NotifyConfig, RouteConfig
from trainbus.plugins.notify.message import Message, of_alert, of_end, summary

RANK = {"info": 0, "warning": 1, "critical": 2}
MAX_SEEN = 500
"""Messages and keys that are remembered."""
MAX_HELD = 200
"""Messages of one channel that wait for a summary; of more only the number would be told."""
OUTCOME_RULE = "run_"


class Channel(Struct):
    """What is known of one channel: when it was used, and what is held back for it."""

    sent: list[float] = field(default_factory=list)
    held: list[Message] = field(default_factory=list)
    limited: bool = False


class Outgoing(Struct):
    """The state of all notifications: told alerts with their severity, last times by key, channels."""

    told: dict[str, int] = field(default_factory=dict)
    seen: dict[str, None] = field(default_factory=dict)
    last: dict[str, tuple[float, int]] = field(default_factory=dict)
    channels: dict[str, Channel] = field(default_factory=dict)


class Delivery(Struct, frozen=True):
    """One message for one channel."""

    channel: str
    message: Message


def message_of(event: events.AnyEvent, state: Outgoing) -> Message | None:
    """The message of an event, if it is news: an alert that is raised, has become more severe or is over, or the end of a run."""
    if isinstance(event, events.RunEnded):
        return of_end(event)
    if not isinstance(event, events.Alert):
        return None
    rank = RANK[event.severity]
    if event.state == "cleared":
        return of_alert(event) if state.told.pop(event.id, None) is not None else None
    if state.told.get(event.id, -1) >= rank:
        return None
    state.told[event.id] = rank
    _trim(state.told)
    return of_alert(event)


def route(message: Message, config: NotifyConfig, state: Outgoing, now: datetime, *, over: bool = False) -> list[Delivery]:
    """What is to be delivered now; the rest is held back for a summary or dropped as a repeat.

    Args:
        message: The news.
        config: Of the plugin.
        state: Changed in place.
        now: Local time.
        over: The message says that an alert is over.
    """
    if message.id in state.seen or now.timestamp() - message.time / 1e9 > config.max_age:
        return []
    state.seen[message.id] = None
    _trim(state.seen)
    names = _channels(message, config, over=over)
    if not names:
        return []
    moment, rank = now.timestamp(), RANK[message.severity]
    before = state.last.get(message.key)
    if not over and before is not None and moment - before[0] < config.repeat and rank <= before[1]:
        return []
    state.last[message.key] = (moment, rank)
    _trim(state.last)
    made = []
    for name in names:
        channel = state.channels.setdefault(name, Channel())
        channel.sent = [time for time in channel.sent if moment - time < config.period]
        quiet = _is_quiet(config, now) and rank < RANK["critical"]
        if quiet or len(channel.sent) >= config.limit:
            channel.limited = not quiet
            channel.held = [*channel.held, message][-MAX_HELD:]
            continue
        channel.sent.append(moment)
        made.append(Delivery(name, message))
    return made


def due(config: NotifyConfig, state: Outgoing, now: datetime) -> Iterator[Delivery]:
    """Summaries whose time has come: quiet hours are over, or a channel has room again."""
    if _is_quiet(config, now):
        return
    moment = now.timestamp()
    for name, channel in state.channels.items():
        channel.sent = [time for time in channel.sent if moment - time < config.period]
        if channel.held and len(channel.sent) < config.limit:
            why = "came faster than the limit" if channel.limited else "in quiet hours"
            message = channel.held[0] if len(channel.held) == 1 else summary(channel.held, why)
            channel.held, channel.limited = [], False
            channel.sent.append(moment)
            yield Delivery(name, message)


def _channels(message: Message, config: NotifyConfig, *, over: bool) -> list[str]:
    known = [channel.name for channel in config.channels]
    routes: Sequence[RouteConfig] = config.routes or (RouteConfig(),)
    wanted = [route for route in routes if _fits(message, route, over=over)]
    return [name for name in known if any(not route.channels or name in route.channels for route in wanted)]


def _fits(message: Message, route: RouteConfig, *, over: bool) -> bool:
    if not any(fnmatchcase(message.run, pattern) for pattern in route.runs):
        return False
    if message.rule.startswith(OUTCOME_RULE) and message.rule.removeprefix(OUTCOME_RULE) in ("completed", "stopped", "failed", "lost"):
        return message.rule.removeprefix(OUTCOME_RULE) in route.outcomes
    if over and not route.cleared:
        return False
    return (over or message.severity in route.severities) and any(fnmatchcase(message.rule, pattern) for pattern in route.rules)


def _is_quiet(config: NotifyConfig, now: datetime) -> bool:
    if not config.quiet_from or not config.quiet_until:
        return False
    clock = now.strftime("%H:%M")
    if config.quiet_from <= config.quiet_until:
        return config.quiet_from <= clock < config.quiet_until
    return clock >= config.quiet_from or clock < config.quiet_until


def _trim(known: dict[str, object] | dict[str, int] | dict[str, None] | dict[str, tuple[float, int]]) -> None:
    while len(known) > MAX_SEEN:
        del known[next(iter(known))]
