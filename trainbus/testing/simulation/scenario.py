"""One simulated history: trainers, broker, subscribers and plugins under seeded faults, then peace, then judgement.

python -m trainbus.testing.simulation 0 2000      runs seeds 0 to 1999 and stops at the first that breaks a promise
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from trainbus.bus.config import BusConfig
from trainbus.bus.events import decode_envelope
from trainbus.bus.filter import Filter
from trainbus.bus.link import Link
from trainbus.testing.checker import HistoryChecker
from trainbus.testing.simulation.broker import SimulatedBroker
from trainbus.testing.simulation.network import Weather
from trainbus.testing.simulation.publishing import SimulatedTrainer
from trainbus.testing.simulation.reading import SimulatedHost, SimulatedSubscriber
from trainbus.testing.simulation.world import World

STORM_SECONDS = 12.0
PEACE_SECONDS = 120.0
"""Longest pause of any part is 30 s (a link whose acknowledgements time out); peace must outlast it."""
SEGMENT_BYTES = 8_192
SPOOL_BYTES = 10 * SEGMENT_BYTES
SETTINGS = BusConfig(memory_events=40, lost_after=5.0, spool_segment_bytes=SEGMENT_BYTES, spool_bytes=SPOOL_BYTES)


class Outcome(msgspec.Struct, kw_only=True, frozen=True):
    """What one seed did, and whether the promises held. ``problems`` is empty when they did."""

    seed: int
    problems: list[str]
    published: int
    journaled: int
    gaps: int
    broker_deaths: int
    failed_commits: int
    trainer_deaths: int
    host_deaths: int
    buried: int


class Scenario:
    """The cast of one seed.

    Args:
        link: The link that trainers use; a mutant in the checker's own tests.
        commit_first: A mutant host, whose cursor moves before its hook has returned.
    """

    def __init__(self, seed: int, root: Path, *, link: type[Link] = Link, commit_first: bool = False) -> None:
        self.seed = seed
        self.world = World(seed)
        self.weather = Weather()
        self.root = root
        self.disk_full = False
        self._link = link
        draw = self.world.random
        self.broker = SimulatedBroker(self.world, self.weather, root / "journal.db", SETTINGS)
        self.trainers: list[SimulatedTrainer] = []
        for _ in range(draw.choice((1, 2, 3))):
            self._new_trainer()
        first = self.trainers[0].run
        choices = [Filter(), Filter(kinds=["step"]), Filter(kinds=["step", "gap"], runs=[first])]
        self.subscribers = [
            SimulatedSubscriber(self.world, self.weather, self.broker, f"sub{number}", choice) for number, choice in enumerate(choices)
        ]
        poison = draw.choice((None, draw.randrange(100)))
        self.host = SimulatedHost(
            self.world, self.weather, self.broker, "plugin:x", Filter(kinds=["step"]), poison=poison, commit_first=commit_first
        )
        self.trainer_deaths = 0

    def storm(self) -> None:
        """Publish while everything breaks."""
        world = self.world
        for trainer in self.trainers:
            self._keep_publishing(trainer)
        self._keep_breaking()
        world.run(STORM_SECONDS)

    def peace(self) -> None:
        """Mend everything and give it time."""
        self.disk_full = False
        self.weather.heal()
        self.broker.commit_fails = 0.0
        self.host.dies_in_hook = 0.0
        if not self.broker.alive:
            self.broker.start()
        if self.broker.paused:
            self.broker.resume()
        end = self.world.time + PEACE_SECONDS
        while self.world.time < end and not self._settled():
            for trainer in self.trainers:
                trainer.drain()
            if self.host.supervision.state == "failed":  # parked after many deaths without getting on: somebody asks for it again
                self.host.supervision.retry(self.world.time)
            self.world.run(self.world.time + 1.0)

    def judge(self) -> Outcome:
        """Compare what was published, journaled and delivered."""
        journal = self.broker.history()
        checker = HistoryChecker()
        envelopes = [decode_envelope(body) for _, body in journal]
        for trainer in self.trainers:
            count = len(trainer.published)
            if trainer.died_without_spool:
                count = max((envelope.seq + 1 for envelope in envelopes if envelope.source == trainer.source), default=0)
            checker.published(trainer.source, count, dict(enumerate(trainer.published[:count])))
        checker.journal(journal)
        for number, subscriber in enumerate(self.subscribers):
            choice = subscriber.stream.choice
            checker.reader(f"subscriber {number}", subscriber.delivered, kinds=choice.kinds, runs=choice.runs)
        checker.reader("plugin", self.host.handled, kinds=["step"], at_least_once=True)
        findings = checker.check()
        problems = [] if findings.ok else [findings.explain()]
        if not self._settled():
            problems.append("not everything came to rest")
        return Outcome(
            seed=self.seed,
            problems=problems,
            published=sum(len(trainer.published) for trainer in self.trainers),
            journaled=len(journal),
            gaps=sum(envelope.kind == "gap" for envelope in envelopes),
            broker_deaths=self.broker.deaths,
            failed_commits=self.broker.failed_commits,
            trainer_deaths=self.trainer_deaths,
            host_deaths=self.host.deaths,
            buried=self.host.buried,
        )

    def _settled(self) -> bool:
        head = self.broker.core.head
        readers = all(subscriber.stream.position == head for subscriber in self.subscribers)
        return not self.broker.core.busy and readers and self.host.settled(head) and all(trainer.settled for trainer in self.trainers)

    def _new_trainer(self) -> SimulatedTrainer:
        source = f"{self.world.random.getrandbits(32):08x}"
        trainer = SimulatedTrainer(
            self.world, self.weather, self.broker, self.root, SETTINGS, source, self._allocate, self._link
        )  # fmt: skip
        self.trainers.append(trainer)
        return trainer

    def _allocate(self, fd: int, offset: int, length: int) -> None:
        if self.disk_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        os.ftruncate(fd, offset + length)

    def _keep_publishing(self, trainer: SimulatedTrainer) -> None:
        if not trainer.alive or self.world.time > STORM_SECONDS:
            return
        for _ in range(self.world.random.choice((1, 1, 1, 2, 10))):
            trainer.publish()
        self.world.after(self.world.random.expovariate(1 / 0.04), lambda: self._keep_publishing(trainer))

    def _keep_breaking(self) -> None:
        if self.world.time > STORM_SECONDS:
            return
        self.world.random.choice(self._faults())()
        self.world.after(self.world.random.uniform(0.1, 1.0), self._keep_breaking)

    def _faults(self) -> list[Callable[[], None]]:
        return [
            self._kill_broker, self._pause_broker, self._kill_trainer, self._cut, self._bad_weather, self._good_weather,
            self._failing_commits, self._full_disk, self._kill_host, self._freeze_host, self._dangerous_hooks, self._kill_all,
        ]  # fmt: skip

    def _kill_broker(self) -> None:
        if self.broker.alive:
            self.broker.kill()
            self.world.after(self.world.random.uniform(0.05, 3.0), lambda: None if self.broker.alive else self.broker.start())

    def _pause_broker(self) -> None:
        if self.broker.alive:
            self.broker.paused = True
            self.world.after(self.world.random.uniform(0.1, 8.0), lambda: self.broker.resume() if self.broker.alive else None)

    def _kill_trainer(self) -> None:
        trainer = self.world.random.choice(self.trainers)
        if trainer.alive:
            self.trainer_deaths += 1
            trainer.kill(torn=self.world.random.random() < 0.5)
            self.world.after(self.world.random.uniform(0.0, 2.0), trainer.drain)
            if len(self.trainers) < 5:
                self._keep_publishing(self._new_trainer())

    def _kill_host(self) -> None:
        self.host.kill()

    def _freeze_host(self) -> None:
        self.host.freeze()

    def _kill_all(self) -> None:
        self._kill_host()
        self._kill_trainer()
        self._kill_broker()

    def _cut(self) -> None:
        for cut in (*(trainer.sending.cut for trainer in self.trainers), *(subscriber.cut for subscriber in self.subscribers)):
            if self.world.random.random() < 0.5:
                cut()

    def _bad_weather(self) -> None:
        draw = self.world.random
        self.weather.latency = draw.choice((0.002, 0.05, 0.5))
        self.weather.lose = draw.choice((0.0, 0.1))
        self.weather.repeat = draw.choice((0.0, 0.2))
        self.weather.reorder = draw.choice((0.0, 0.1))
        self.weather.drop_frame = draw.choice((0.0, 0.05, 0.5))

    def _good_weather(self) -> None:
        self.weather.heal()
        self.disk_full = False
        self.broker.commit_fails = self.host.dies_in_hook = 0.0

    def _failing_commits(self) -> None:
        self.broker.commit_fails = self.world.random.choice((0.1, 0.9))

    def _full_disk(self) -> None:
        self.disk_full = True

    def _dangerous_hooks(self) -> None:
        self.host.dies_in_hook = 0.003


def simulate(seed: int, *, link: type[Link] = Link, commit_first: bool = False) -> Outcome:
    """Play one seed to its end."""
    with tempfile.TemporaryDirectory(prefix="trainbus-simulation-") as folder:
        scenario = Scenario(seed, Path(folder), link=link, commit_first=commit_first)
        scenario.storm()
        scenario.peace()
        return scenario.judge()
