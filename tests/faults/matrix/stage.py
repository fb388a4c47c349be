"""Where one round plays: a storm of its own, a seeded hand, a control process, and a stopwatch for the recovery."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT
from tests.faults.board import STOP
from tests.faults.matrix.row import Round, Row
from tests.faults.storm import RECORDER, Storm, Trainer
from tests.hosting.site import Site
from tests.support import trainbus, wait_for
from trainbus.bus.client import Client
from trainbus.bus.config import BusConfig
from trainbus.errors import TrainbusError
from trainbus.testing.checker import Findings, HistoryChecker

PATIENCE = 90.0
"""How long anything may take to come back; what needs longer is a finding."""

SMALL_SEGMENT, DEFAULT_SEGMENT = 65_536, BusConfig().spool_segment_bytes
BUS = {"heartbeat_interval": 0.2, "stuck_after": 20.0}


class Stage(Storm):
    """A storm with what the rows share.

    Args:
        folder: Empty; the home, the plugins and everything else of this round lie in it.
        chance: Decides moments and choices.
    """

    def __init__(self, folder: Path, chance: random.Random) -> None:
        super().__init__(folder / "home", folder)
        self.chance = chance
        self.site = Site(folder / "site")
        self.checker: HistoryChecker | None = None
        """Set by rows that have no trainer processes and record by themselves what was published."""
        self.number = 0
        """Of this round."""
        self._findings: Findings | None = None
        self._endings = contextlib.ExitStack()
        self.callback = self._endings.callback
        """``callback(function)``: called when the round is over."""
        self._control: Trainer | None = None
        self._mended_at: float | None = None
        self._targets: dict[str, int] = {}
        self.recovery: float | None = None

    # --- a running system ---

    def system(
        self, *plugins: str, bus: dict | None = None, follow: bool = True, options: dict | None = None, **settings: object
    ) -> Trainer:
        """Broker, the recording plugins alpha and beta, others by name, a live reader and a trainer, all of them at work.

        ``settings`` are the trainer's.
        """
        self.up("alpha", "beta", *plugins, bus={**BUS, **(bus or {})}, **(options or {}))
        if follow:
            self.follower()
        trainer = self.train(**settings)
        for name in ("alpha", "beta"):
            wait_for(lambda name=name: self.last_recorded(name) >= 0, PATIENCE, what=f"{name} to record")
        self.moment(trainer)
        return trainer

    def train(self, *options: str, **rest) -> Trainer:
        """A trainer of 1,000 events a second, and with the first one the control process beside it.

        Its spool's segments are of the usual size, or so small that they are used again within a second.
        """
        pace = ("--burst", "5", "--pace", "0.005")
        if self._control is None:
            self._control = Trainer("control", self.folder / "board-control", "--control", *pace, env=dict(os.environ))
        rest.setdefault("spool_segment_bytes", self.chance.choice((SMALL_SEGMENT, DEFAULT_SEGMENT)))
        return self.trainer(*pace, *options, **rest)

    def moment(self, trainer: Trainer, most: int = 600) -> None:
        """Until a seeded number of further events is published."""
        trainer.wait_for_more(self.chance.randrange(20, most))

    def strike(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(pid, number)

    def new_broker(self, before: int) -> None:
        """Until another broker than ``before`` runs."""
        wait_for(lambda: self.broker_pid() != before, PATIENCE, what="another broker")

    def events_of(self, rule: str) -> list:
        """The alerts of one rule."""
        return [alert for alert in self.events("alert") if alert.rule == rule]

    def drain(self) -> None:
        """As a person does after a crash."""
        done = trainbus("spool", "drain")
        assert done.returncode == 0, done.stderr

    def last_recorded(self, name: str) -> int:
        """The offset that a recorder wrote down last."""
        with contextlib.suppress(OSError, ValueError, IndexError), self.recorders[name].open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 200))
            return int(file.read().splitlines()[-1].split()[0])
        return -1

    # --- the recovery ---

    def mended(self) -> None:
        """From now on nothing is broken: what was published until now has to arrive everywhere, and the time that takes is taken."""
        self._mended_at = time.monotonic()
        self._targets = {trainer.board.source: trainer.board.returned for trainer in self.trainers}

    def recovered(self) -> None:
        """Until everything of `mended` has arrived in the journal and at the recording plugins."""
        assert self._mended_at is not None
        wait_for(self._journal_has_all, PATIENCE, what=f"the journal to hold {self._targets}")
        with Client(root=self.root) as client:
            head = client.status().head
        for name in self.recorders:
            wait_for(lambda name=name: self.last_recorded(name) >= head, PATIENCE, what=f"{name} to reach {head}")
        self.recovery = time.monotonic() - self._mended_at

    def _journal_has_all(self) -> bool:
        with contextlib.suppress(TrainbusError), Client(root=self.root, timeout=2.0) as client:
            known = {source.source: source.expected for source in client.status().sources}
            return all(known.get(source, 0) >= count or self._in_history(source, count) for source, count in self._targets.items())
        return False

    def _in_history(self, source: str, count: int) -> bool:
        """For sources that the broker no longer lists: they were drained."""
        return max(self.seqs(source), default=-1) >= count - 1

    # --- the end of a round ---

    def finish_all(self) -> None:
        """Every trainer that lives ends in order."""
        for trainer in self.trainers:
            if trainer.process.poll() is None:
                self.finish(trainer)

    def keep_judgement(self) -> None:
        """Judge now, because what is judged is about to go."""
        self._findings = self.judgement()

    def judgement(self, patience: float = PATIENCE) -> Findings:
        """What the checker says of this round."""
        if self._findings is not None:
            return self._findings
        return self.checker.check() if self.checker is not None else self.verdict(patience=patience)

    def fill_in(self, found: Round, row: Row, *, patience: float = PATIENCE) -> None:
        """Put the judgement and the figures into ``found``."""
        findings = self.judgement(patience)
        found.published, found.journaled, found.explained = findings.published, findings.journaled, findings.explained
        found.delivered = sum(findings.delivered.values())
        found.lost, found.duplicated, found.disordered = (findings.count(kind) for kind in ("lost", "duplicated", "disordered"))
        found.wrong = findings.count("changed", "invented", "unreadable")
        found.recovery = self.recovery
        self._take_times(found)
        if not findings.ok:
            found.problem = findings.explain()
        elif findings.explained and not row.gaps:
            found.problem = f"a gap event excuses {findings.explained} events, but none may be missing here"
        elif not findings.published:
            found.problem = "nothing was published"

    def _take_times(self, found: Round) -> None:
        boards = [trainer.board for trainer in self.trainers]
        found.longest = max((board.longest for board in boards), default=0.0)
        found.own = max((board.own for board in boards), default=0.0)
        found.late = sum(board.late for board in boards)
        found.waited = sum(board.waited for board in boards)
        if self._control is not None:
            found.control, found.control_own = self._control.board.longest, self._control.board.own
            found.control_late = self._control.board.late

    def stop(self) -> None:
        """End the whole system, before its disk goes."""
        super().close()

    def close(self) -> None:
        if self._control is not None:
            self._control.board.numbers[STOP] = 1
            self._control.close()
        super().close()
        self._endings.close()


@contextlib.contextmanager
def open_stage(folder: Path, seed: str) -> Iterator[Stage]:
    """A stage in this process, whose environment it changes: one process plays one round."""
    for name in [name for name in os.environ if name.startswith("TRAINBUS_")]:
        del os.environ[name]
    seen, site = folder / "seen", folder / "site"
    for directory in (seen, site):
        directory.mkdir(parents=True)
    os.environ |= {
        "TRAINBUS_HOME": str(folder / "home"),
        "SEEN": str(seen),
        "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]),
    }
    sys.path.insert(0, str(site))
    stage = Stage(folder, random.Random(seed))
    for name in ("alpha", "beta"):
        stage.site.install(name, RECORDER)
    try:
        yield stage
    finally:
        stage.close()
