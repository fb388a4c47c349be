"""Which training processes give signs of life (D7).

Only owners are watched: the source that is the training process of its run. Time comes in as monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from trainbus.bus import events
from trainbus.bus.broker.intake import Feed
from trainbus.bus.broker.records import RunRecord
from trainbus.bus.broker.runs import LOST_RULE


class Watched(Struct):
    """An owner, its run, and when it was last heard."""

    source: str
    run: str
    heard: float


class Liveness:
    """Watches owners and remembers the runs that were declared lost.

    Args:
        lost_after: Seconds of silence after which a run is lost.
        records: Runs as the journal has them: those that are running get ``lost_after`` from ``now`` on, even if they are never heard
            again (they may have died together with the last broker).
        now: Monotonic seconds.
    """

    def __init__(self, lost_after: float, records: Iterable[RunRecord], now: float) -> None:
        self._lost_after = lost_after
        self._watched: dict[str, Watched] = {}
        self._lost: dict[str, str] = {}
        self._ticked = now
        for record in records:
            if record.owner and record.state == "running":
                self._watched[record.owner] = Watched(record.owner, record.run, now)
            elif record.state == "lost":
                self._lost[record.run] = record.owner

    def owner(self, source: str, run: str, now: float) -> str | None:
        """A training process of ``run`` said hello; it replaces an earlier one.

        Returns:
            The source for which the run had been declared lost, if it was: it is not lost any more.
        """
        for other in [other for other in self._watched.values() if other.run == run and other.source != source]:
            del self._watched[other.source]
        self._watched[source] = Watched(source, run, now)
        return self._lost.pop(run, None)

    def heard(self, source: str, run: str, now: float) -> str | None:
        """A source said something. Returns as `owner` does."""
        if watched := self._watched.get(source):
            watched.heard = now
        elif self._lost.get(run) == source:
            return self.owner(source, run, now)
        return None

    def left(self, source: str) -> None:
        """The source ends in order (or is only drained from now on): its silence means nothing."""
        self._watched.pop(source, None)

    def ended(self, source: str, run: str) -> None:
        """The run's end, told by ``source``, is in the journal: that source may fall silent, and the run is not lost."""
        self._watched.pop(source, None)
        self._lost.pop(run, None)

    def lost_source(self, run: str) -> str | None:
        """The source for which ``run`` was declared lost; None when it isn't lost."""
        return self._lost.get(run)

    def tick(self, now: float) -> list[Watched]:
        """The owners whose silence has just become too long; their runs count as lost from now on.

        A long pause between two ticks means that the broker itself was stopped or the machine slept. Their signs of life
        may still lie unread in its socket, so all get the whole time again.
        """
        paused = now - self._ticked > self._lost_after / 2
        self._ticked = now
        if paused:
            for watched in self._watched.values():
                watched.heard = now
            return []
        lost = [watched for watched in self._watched.values() if now - watched.heard >= self._lost_after]
        for watched in lost:
            del self._watched[watched.source]
            self._lost[watched.run] = watched.source
        return lost


def lost_events(watched: Watched, feed: Feed | None, record: RunRecord | None, now: float) -> list[events.Event]:
    """What goes into the journal when a run is lost: its end, and an alert that says what is known."""
    step = feed.last_step if feed and feed.last_step is not None else record.last_step if record else None
    host = feed.host if feed and feed.host else record.host if record else ""
    pid = feed.pid if feed else 0
    silent = now - watched.heard
    known = [f"no sign of life for {silent:.0f} s" if feed else f"not heard since the broker started {silent:.0f} s ago"]
    known.append(f"last step {step}" if step is not None else "no step was seen")
    if feed and feed.rss is not None:
        known.append(f"{feed.rss / 2**20:,.0f} MiB resident at the last heartbeat")
    if host or pid:
        known.append(f"process {pid or '?'} on host {host or '?'}")
    reason = "; ".join(known)
    evidence = {"source": watched.source, "host": host, "pid": pid, "silent_for": silent, "rss": feed.rss if feed else None}
    return [
        events.RunEnded(run=watched.run, outcome="lost", step=step, reason=reason),
        _alert(watched.run, watched.source, state="raised", step=step, message=f"Run {watched.run} is lost: {reason}.", evidence=evidence),
    ]


def found_event(run: str, source: str, message: str) -> events.Event:
    """What goes into the journal when a lost run turns out not to be lost."""
    return _alert(run, source, state="cleared", step=None, message=message, evidence={})


def _alert(run: str, source: str, *, state: events.AlertState, step: int | None, message: str, evidence: dict[str, object]) -> events.Alert:
    return events.Alert(
        id=f"{LOST_RULE}:{run}:{source}",
        rule=LOST_RULE,
        category="run",
        severity="critical",
        state=state,
        run=run,
        step=step,
        message=message,
        evidence=evidence,
        advice="Look for the process on its host: killed (out of memory?), hung, or cut off from the broker." if state == "raised" else "",
        plugin="broker",
    )
