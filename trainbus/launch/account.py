"""What the bus is told of a supervised command: that it began, what it uses, what its lines say, how it ended."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from trainbus.bus.config import BusConfig
from trainbus.bus.drain import drain_orphans
from trainbus.bus.events import Event, RunEnded, RunOutcome, RunStarted, Step
from trainbus.bus.joining import Entry, Ledger
from trainbus.bus.publisher import Publisher
from trainbus.errors import TrainbusError
from trainbus.launch.signals import Ended
from trainbus.launch.verdict import Verdict, crash_alert

DRAIN_PATIENCE = 2.0
"""Seconds without progress after which what is left waits for the next publisher."""


class AccountStats(Struct, frozen=True, kw_only=True):
    """Runs that training processes opened, events published here, and whether all of it is in the journal."""

    opened: int
    published: int
    delivered: bool


class Account:
    """Publishes on behalf of the command.

    While no training process has opened the run, this is its owner, whose silence means that the run is lost. Once one has, that one is:
    it takes the run's commands.

    Args:
        run: The run's id.
        name: For people.
        command: The command line.
        pid: The command's process.
        root: TRAINBUS_HOME.
        ledger: Where training processes say which runs they have.
        settings: Of the bus.
    """

    def __init__(self, run: str, name: str, command: Sequence[str], pid: int, root: Path, ledger: Ledger, settings: BusConfig) -> None:
        self.run = run
        self._root, self._ledger, self._settings, self._name = root, ledger, settings, name
        self._publisher = self._publish_as(owner=True)
        self._owner = True
        self._closed: list[str] = []
        self._step: int | None = None
        self._published = 0
        self._delivered = False
        self._lock = threading.Lock()
        versions = {"python": sys.version.split()[0]}
        self.publish(RunStarted(name=name, host=socket.gethostname(), pid=pid, command=[*command], versions=versions))

    def publish(self, event: Event) -> None:
        """Any event of the run. Thread-safe."""
        if isinstance(event, Step):
            self._step = event.step
        with self._lock:
            self._publisher.publish(event)

    def joined(self) -> bool:
        """Whether a training process publishes by itself."""
        return bool(self._ledger.entries())

    def opened(self) -> bool:
        """Whether a training process publishes by itself; hands the run over to it, and ends runs that others have left."""
        entries = self._ledger.entries()
        runs = [entry.run for entry in entries if entry.state == "opened"]
        if not runs:
            return False
        if self._owner:
            with self._lock:
                self._owner = False
                owner, self._publisher = self._publisher, self._publish_as(owner=False)
            self._published += owner.stats().published
            owner.close()
        for entry in _leaving(entries).values():
            if entry.run != runs[-1] and entry.run not in self._closed:
                self._end_of_other(entry)
        return True

    def end(self, ended: Ended, verdict: Verdict, lines: Sequence[str], log: Path) -> bool:
        """The command is over: send what its processes left, then say how its run ended.

        Returns:
            Whether everything is in the journal; what isn't waits in the spool.
        """
        self.opened()
        entries = self._ledger.entries()
        with contextlib.suppress(TrainbusError):
            drain_orphans(self._root, patience=DRAIN_PATIENCE)
        runs = [entry.run for entry in entries if entry.state == "opened"]
        run = runs[-1] if runs else self.run
        known = _leaving(entries).get(run)
        step = known.step if known is not None else self._step
        outcome, reason = verdict.outcome, verdict.reason
        if ended.exit_code == 0 and known is not None and known.outcome in ("stopped", "failed"):
            outcome, reason = _outcome(known), known.reason
        failed = verdict.outcome == "failed"
        if failed:
            self.publish(crash_alert(run, verdict, ended, lines, step=step, log=str(log)))
        for other in dict.fromkeys([self.run, *runs]):
            if other not in self._closed and other != run:
                self._end_of_other(Entry("left", other, 0, 0, "failed", "its process ended without a word"))
        said = list(lines) if failed else []
        self.publish(
            RunEnded(
                run=run,
                outcome=outcome,
                step=step,
                exit_code=ended.exit_code,
                signal=ended.signal,
                reason=reason,
                last_lines=said,
            )
        )
        self._published += self._publisher.stats().published
        self._delivered = self._publisher.close()
        return self._delivered

    def stats(self) -> AccountStats:
        """Counts so far."""
        opened = len({entry.run for entry in self._ledger.entries() if entry.state == "opened"})
        return AccountStats(opened=opened, published=self._published, delivered=self._delivered)

    def _publish_as(self, *, owner: bool) -> Publisher:
        return Publisher(self.run, name=self._name, owner=owner, root=self._root, settings=self._settings)

    def _end_of_other(self, entry: Entry) -> None:
        """A run of this command that was not its last."""
        self._closed.append(entry.run)
        self.publish(RunEnded(run=entry.run, outcome=_outcome(entry), step=entry.step, reason=entry.reason))


def _leaving(entries: Sequence[Entry]) -> dict[str, Entry]:
    """The last word on each run that nobody has opened again since."""
    left: dict[str, Entry] = {}
    for entry in entries:
        if entry.state == "left":
            left[entry.run] = entry
        else:
            left.pop(entry.run, None)
    return left


def _outcome(entry: Entry) -> RunOutcome:
    return entry.outcome if entry.outcome in ("completed", "stopped", "failed") else "failed"  # type: ignore[return-value]
