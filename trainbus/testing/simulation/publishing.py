"""Trainers of a simulation: the real spool, outbox and link, killed and drained."""

from __future__ import annotations

from pathlib import Path

from trainbus.bus import wire
from trainbus.bus.config import BusConfig
from trainbus.bus.events import Step, encode
from trainbus.bus.link import Link
from trainbus.bus.outbox import Outbox
from trainbus.bus.segment import Allocate
from trainbus.bus.spool import Identity, Spool, try_lock, unlock
from trainbus.testing.simulation.broker import SimulatedBroker
from trainbus.testing.simulation.network import Connection, Weather
from trainbus.testing.simulation.world import World

FLUSH_SECONDS = BusConfig().flush_interval


class Sending:
    """One link with its connection: what a publisher's owner thread does, in virtual time."""

    def __init__(self, world: World, weather: Weather, broker: SimulatedBroker, link: Link, name: str) -> None:
        self.link = link
        self.running = True
        self._world = world
        self._weather = weather
        self._broker = broker
        self._name = name
        self._connections = 0
        self._connection: Connection | None = None
        self._pump()

    def cut(self) -> None:
        """The network breaks the connection."""
        if self._connection is not None:
            self._connection.cut()

    def stop(self) -> None:
        """The thread is gone."""
        self.running = False
        self.cut()

    def _pump(self) -> None:
        if not self.running:
            return
        now, link = self._world.time, self.link
        connection = self._connection
        if connection is None or not connection.open:
            if connection is not None:
                link.disconnected(now)
                self._connection = None
            if self._broker.alive:
                self._connections += 1
                peer = f"{self._name}#{self._connections}".encode()
                self._connection = Connection(self._world, self._weather, peer, self._broker.receive, self._receive)
                self._broker.connect(self._connection)
                link.connected(now)
        while self._connection is not None and (message := link.poll(now)) is not None:
            self._connection.send(message)
        self._world.after(FLUSH_SECONDS, self._pump)

    def _receive(self, message: wire.AnyMessage) -> None:
        if self.running:
            self.link.receive(message, self._world.time)


class SimulatedTrainer:
    """Publishes numbered steps. ``published`` is what its publish() returned from, in order."""

    def __init__(
        self, world: World, weather: Weather, broker: SimulatedBroker, root: Path, settings: BusConfig, source: str, allocate: Allocate,
        link: type[Link] = Link,
    ) -> None:  # fmt: skip
        self.source = source
        self.run = f"run-{source}"
        self.published: list[bytes] = []
        self.alive = True
        self.orphaned_spool: Path | None = None
        self.died_without_spool = False
        self._world, self._weather, self._broker = world, weather, broker
        identity = Identity(source=source, run=self.run, owner=True)
        self.spool = Spool(root, identity, segment_bytes=settings.spool_segment_bytes, total_bytes=settings.spool_bytes, allocate=allocate)
        self.outbox = Outbox(self.spool, memory_events=settings.memory_events)
        self.outbox.prepare(world.time)
        self._link = link
        hello = wire.Hello(source=source, run=self.run, owner=True)
        self.sending = Sending(
            world, weather, broker, link(hello, self.outbox, beat=lambda: wire.Beat(source=source, step=len(self.published))), source
        )
        self._prepare()

    def publish(self) -> None:
        """One step, as training calls it."""
        if not self.alive:
            return
        seq = self.outbox.next
        body = encode(Step(run=self.run, source=self.source, seq=seq, time=self._world.wall(), step=seq, metrics={"loss": 1.0 / (seq + 1)}))
        self.outbox.append(seq, body)
        self.published.append(body)

    def kill(self, *, torn: bool) -> None:
        """kill -9, perhaps in the middle of writing a record."""
        if not self.alive:
            return
        self.alive = False
        self.sending.stop()
        if torn:
            self._tear()
        path, lock = self.spool.path, self.spool._lock
        if lock is not None:
            unlock(lock)  # the kernel does this when a process dies
            self.orphaned_spool = path
        else:
            # The disk was full from the beginning: what only the memory ring held has died with the process, as its warning had said.
            self.died_without_spool = True

    def drain(self) -> None:
        """Somebody sends what the dead trainer's spool still holds."""
        if self.alive or self.orphaned_spool is None:
            return
        lock = try_lock(self.orphaned_spool)
        if lock is None:
            return
        self.orphaned_spool = None
        spool, segments = Spool.recover(self.spool.path, lock)
        self.outbox = Outbox.recover(spool, segments)
        hello = wire.Hello(source=self.source, run=self.run, draining=True)
        self.sending = Sending(self._world, self._weather, self._broker, self._link(hello, self.outbox), f"{self.source}-drain")

    @property
    def settled(self) -> bool:
        """Nothing is left to send."""
        return self.died_without_spool or (self.orphaned_spool is None and (self.sending.link.settled or not self.published))

    def _prepare(self) -> None:
        """What the owner thread does for the spool at each tick."""
        if self.alive:
            self.outbox.prepare(self._world.time)
            self.outbox.refill()
            self._world.after(FLUSH_SECONDS, self._prepare)

    def _tear(self) -> None:
        """The next record was being written when the process died: some of its bytes are there."""
        segment = self.outbox._active
        if segment is None:
            return
        torn = self._world.random.randbytes(self._world.random.randrange(1, 200))
        end = min(segment.size, segment.tail + len(torn))
        segment.map[segment.tail : end] = torn[: end - segment.tail]
