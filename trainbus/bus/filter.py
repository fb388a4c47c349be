"""Which events a reader wants: a choice of kinds and of runs, where nothing named means all."""

from __future__ import annotations

from collections.abc import Iterable

from trainbus.bus import events, wire
from trainbus.errors import ConfigError

_HEARTBEAT = str(events.Heartbeat.__struct_config__.tag)


class Filter:
    """A choice of kinds and runs. Kinds that this version does not know are as good as any other.

    Args:
        kinds: Names of kinds; empty means all of them, but heartbeats, which nobody gets unasked.
        runs: Run ids; empty means all of them.

    Raises:
        ConfigError: A bare string was given where several names belong.
    """

    def __init__(self, kinds: Iterable[str] = (), runs: Iterable[str] = ()) -> None:
        for key, given in (("kinds", kinds), ("runs", runs)):
            if isinstance(given, str):
                hint = f"Write {key}=[{given!r}]."
                raise ConfigError(f"{key} is a list of names, and was given the one name {given!r}.", hint=hint, key=key, found=given)
        self.kinds = list(dict.fromkeys(kinds))
        self.runs = list(dict.fromkeys(runs))
        self._kinds = frozenset(self.kinds)
        self._runs = frozenset(self.runs)

    def __repr__(self) -> str:
        return f"Filter(kinds={self.kinds or 'all'}, runs={self.runs or 'all'})"

    def matches(self, topic: str) -> bool:
        """Whether events of this topic (``kind.run``) are wanted."""
        kind, _, run = topic.partition(".")
        wanted = kind in self._kinds if self._kinds else kind != _HEARTBEAT
        return wanted and (not self._runs or run in self._runs)

    def subscriptions(self) -> list[bytes]:
        """Prefixes to subscribe to, so that every wanted frame and every commit marker arrives.

        Runs alone can't be told by a prefix, since any unknown kind may come before them: then everything arrives, and `matches` chooses.
        """
        if not self.kinds:
            return [b""]
        marker = wire.COMMIT_TOPIC + b"\0"
        if not self.runs:
            return [marker, *(f"{kind}.".encode() for kind in self.kinds)]
        return [marker, *(wire.topic(kind, run).encode() + b"\0" for kind in self.kinds for run in self.runs)]

    def history(self, after: int, upto: int | None, limit: int) -> wire.History:
        """The request for the journal's events of this choice."""
        return wire.History(after=after, upto=upto, kinds=self.kinds, runs=self.runs, limit=limit)


def is_heartbeat(topic: str) -> bool:
    """Whether a topic carries heartbeats, which no commit marker lists."""
    return topic.partition(".")[0] == _HEARTBEAT
