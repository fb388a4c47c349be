"""The broker of a simulation: the real core over a real journal, whose process may die at any moment."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Protocol

from trainbus.bus import wire
from trainbus.bus.broker.answers import reply
from trainbus.bus.broker.batch import Batch
from trainbus.bus.broker.core import BrokerCore
from trainbus.bus.broker.effects import Fan, ReadHistory, Send
from trainbus.bus.broker.journal import Journal
from trainbus.bus.broker.replay import HistoryReader
from trainbus.bus.config import BusConfig
from trainbus.errors import JournalError
from trainbus.testing.simulation.network import Connection, Weather
from trainbus.testing.simulation.world import World

TICK_SECONDS = 0.1
COMMIT_SECONDS = 0.004
REPAIR_SECONDS = 1.0


class Listener(Protocol):
    """Somebody who is subscribed to the fan-out."""

    def frame(self, frame: bytes) -> None:
        """A frame arrived."""

    def broker_changed(self) -> None:
        """The connections to the broker are lost; a new one can be made."""


class SimulatedBroker:
    """Lives, dies and comes back. Faults are switches.

    Args:
        settings: The bus's.
    """

    def __init__(self, world: World, weather: Weather, path: Path, settings: BusConfig) -> None:
        self.alive = False
        self.paused = False
        self.commit_fails = 0.0
        self.listeners: list[Listener] = []
        self.deaths = self.failed_commits = 0
        self._world = world
        self._weather = weather
        self._path = path
        self._settings = settings
        self._connections: dict[bytes, Connection] = {}
        self._inbox: list[tuple[bytes, bytes]] = []
        self._generation = 0
        self._ids = random.Random(world.random.random())
        self.start()

    def start(self) -> None:
        """A new process opens the journal."""
        world = self._world
        self._generation += 1
        self.alive, self.paused = True, False
        self._journal = Journal(self._path, synchronous="OFF")
        self._reader = HistoryReader(self._path)
        self.core = BrokerCore(
            self._journal.contents, self._settings, now=world.time, wall=world.wall, new_id=lambda: f"{self._ids.getrandbits(64):016x}"
        )
        self._tick(self._generation)
        for listener in self.listeners:
            listener.broker_changed()

    def kill(self) -> None:
        """kill -9: what was in memory is gone, what was committed stays."""
        self.alive = False
        self.deaths += 1
        self._generation += 1
        self._inbox.clear()
        for connection in self._connections.values():
            connection.cut()
        self._connections.clear()
        self._reader.close()
        self._journal.close()
        for listener in self.listeners:
            listener.broker_changed()

    def resume(self) -> None:
        """SIGCONT after SIGSTOP: everything that arrived meanwhile is there at once."""
        self.paused = False
        waiting, self._inbox = self._inbox, []
        for peer, frame in waiting:
            self.receive(peer, frame)

    def connect(self, connection: Connection) -> None:
        """A DEALER connected."""
        self._connections[connection.peer] = connection

    def receive(self, peer: bytes, frame: bytes) -> None:
        """A frame arrived at the ROUTER."""
        if not self.alive:
            return
        if self.paused:
            self._inbox.append((peer, frame))
            return
        self.core.receive_frame(peer, frame, self._world.time)
        self._work()

    def history(self) -> list[tuple[int, bytes]]:
        """Everything that the journal holds."""
        found: list[tuple[int, bytes]] = []
        page = wire.Page(events=[], next=-1, head=self.core.head, done=False)
        while not page.done:
            page = self._reader.page(wire.History(after=page.next), self.core.head)
            found += page.events
        return found

    def _tick(self, generation: int) -> None:
        if generation != self._generation:
            return
        if not self.paused:
            self.core.tick(self._world.time)
            self._work()
        self._world.after(TICK_SECONDS, lambda: self._tick(generation))

    def _work(self) -> None:
        batch = self.core.take_batch()
        if batch is not None:
            generation, draw = self._generation, self._world.random.random
            moment = COMMIT_SECONDS * draw()
            fails = draw() < self.commit_fails
            # The commit and the core's hearing of it are two moments: a death between them loses the acknowledgement.
            self._world.after(moment, lambda: self._commit(generation, batch, fails=fails))
        for effect in self.core.take_effects():
            if isinstance(effect, Send):
                connection = self._connections.get(effect.peer)
                if connection is not None:
                    connection.answer(effect.message)
            elif isinstance(effect, Fan):
                self._fan(effect.frame)
            elif isinstance(effect, ReadHistory):
                page = self._reader.page(effect.request, effect.head)
                connection = self._connections.get(effect.peer)
                if connection is not None:
                    connection.answer(reply(effect.id, page))

    def _commit(self, generation: int, batch: Batch, *, fails: bool) -> None:
        if generation != self._generation:
            return
        if self.paused:
            self._world.after(TICK_SECONDS, lambda: self._commit(generation, batch, fails=fails))
            return
        error, deleted = None, 0
        if fails:
            self.failed_commits += 1
            error = JournalError("The disk is full.", hint="(injected)")
        else:
            deleted = self._journal.append(batch)
        self._world.after(COMMIT_SECONDS * self._world.random.random(), lambda: self._heard(generation, batch, deleted, error))

    def _heard(self, generation: int, batch: Batch, deleted: int, error: JournalError | None) -> None:
        if generation != self._generation:
            return
        if self.paused:
            self._world.after(TICK_SECONDS, lambda: self._heard(generation, batch, deleted, error))
            return
        if error is not None:
            self.core.commit_failed(batch, error)
        else:
            self.core.committed(batch, deleted)
        self._work()

    def _fan(self, frame: bytes) -> None:
        for listener in self.listeners:
            if self._world.random.random() >= self._weather.drop_frame:
                self._world.after(self._weather.latency, lambda listener=listener, life=self._generation: self._arrive(listener, frame, life))  # type: ignore[misc]

    def _arrive(self, listener: Listener, frame: bytes, generation: int) -> None:
        if generation == self._generation:
            listener.frame(frame)
