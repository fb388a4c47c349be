"""Subscribers and plugin hosts of a simulation: the real stream, commits and delivery, killed and restarted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from trainbus.bus import wire
from trainbus.bus.commits import Commits
from trainbus.bus.filter import Filter
from trainbus.bus.hosting.delivery import Delivery
from trainbus.bus.hosting.inflight import Mark
from trainbus.bus.hosting.supervision import Policy, Supervision
from trainbus.bus.stream import Stream
from trainbus.testing.simulation.broker import SimulatedBroker
from trainbus.testing.simulation.network import Connection, Weather
from trainbus.testing.simulation.world import World

RECONNECT_SECONDS = 0.1
ANSWER_SECONDS = 3.0
"""Without an answer for so long a reader connects anew, as the real one does."""
MAX_DELIVER = 3
HOOK_SECONDS = 0.2
"""How long a hook works before it kills its process."""
PROGRESS_SECONDS = 0.5
POLICY = Policy(stuck_after=2.0, first_pause=0.1, longest_pause=2.0)
"""As a supervisor's, in a hurry."""


class Asking:
    """Calls over a connection of its own; every loss of it is told to ``lost``."""

    def __init__(self, world: World, weather: Weather, broker: SimulatedBroker, name: str, lost: Callable[[], None]) -> None:
        self._world, self._weather, self._broker = world, weather, broker
        self._name = name
        self._lost = lost
        self._serial = 0
        self._waiting: dict[int, Callable[[wire.Reply], None]] = {}
        self._connection: Connection | None = None
        self._stopped = False

    def call(self, request: wire.AnyRequest, then: Callable[[wire.Reply], None]) -> None:
        """Ask; ``then`` gets the reply, unless the connection is lost before."""
        self._serial += 1
        serial = self._serial
        if self._connection is None or not self._connection.open:
            if not self._broker.alive:
                self._world.after(RECONNECT_SECONDS, self._trouble)
                return
            peer = f"{self._name}#{serial}".encode()
            self._connection = Connection(self._world, self._weather, peer, self._broker.receive, self._receive)
            self._broker.connect(self._connection)
        self._waiting[serial] = then
        self._connection.send(wire.Call(id=serial, request=request))
        self._world.after(ANSWER_SECONDS, lambda: self._trouble() if serial in self._waiting else None)

    def cut(self) -> None:
        """The connection is gone."""
        if self._connection is not None:
            self._connection.cut()
        self._world.after(RECONNECT_SECONDS, self._trouble)

    def stop(self) -> None:
        """The process is gone."""
        self._stopped = True
        if self._connection is not None:
            self._connection.cut()

    def _trouble(self) -> None:
        if self._stopped:
            return
        if self._connection is not None:
            self._connection.cut()
        self._connection = None
        self._waiting.clear()
        self._lost()

    def _receive(self, message: wire.AnyMessage) -> None:
        if isinstance(message, wire.Reply) and (then := self._waiting.pop(message.id, None)):
            then(message)


class SimulatedSubscriber:
    """A reader without a cursor: gets every wanted event once, in order."""

    def __init__(
        self, world: World, weather: Weather, broker: SimulatedBroker, name: str, choice: Filter, *, start: int = -1,
        deliver: Callable[[int, bytes], None] | None = None,
    ) -> None:  # fmt: skip
        self.delivered: list[tuple[int, bytes]] = []
        self.stream = Stream(choice, start=start, page_events=50, buffer_bytes=20_000)
        self._deliver = deliver or (lambda offset, body: self.delivered.append((offset, body)))
        self._prefixes = tuple(choice.subscriptions())
        self._stopped = False
        self._broker = broker
        self._asking = Asking(world, weather, broker, name, self._reconnected)
        broker.listeners.append(self)
        self._work()

    def frame(self, frame: bytes) -> None:
        """A frame of the fan-out arrived; SUB filters by prefix."""
        if not self._stopped and frame.startswith(self._prefixes):
            self.stream.frame(frame)
            self._work()

    def broker_changed(self) -> None:
        """The broker died or came back."""
        self._asking.cut()

    def cut(self) -> None:
        """The network breaks the connections."""
        self._asking.cut()

    def stop(self) -> None:
        """The process is gone."""
        self._stopped = True
        self._asking.stop()
        self._broker.listeners.remove(self)

    def _reconnected(self) -> None:
        self.stream.reconnected()
        self._work()

    def _work(self) -> None:
        if self._stopped:
            return
        question = self.stream.wanted()
        if question is not None:
            kind: Any = wire.Page if isinstance(question, wire.History) else wire.BrokerStatus
            self._asking.call(question, lambda reply: self._answered(question, msgspec.msgpack.decode(reply.result, type=kind)))
        for offset, body in self.stream.take():
            if self._stopped:
                return
            self._deliver(offset, body)

    def _answered(self, question: wire.Status | wire.History, answer: wire.BrokerStatus | wire.Page) -> None:
        if not self._stopped:
            self.stream.answered(question, answer)
            self._work()


class MemoryMarks:
    """What a mapped file keeps when a host dies."""

    def __init__(self) -> None:
        self._mark: Mark | None = None
        self._attempts: dict[int, int] = {}

    def mark(self, offset: int, hook: bytes) -> None:
        """``hook`` now works on ``offset``."""
        self._mark = Mark(offset, hook.decode())

    def clear(self) -> None:
        """Nothing is being worked on."""
        self._mark = None

    def marked(self) -> Mark | None:
        """What was being worked on."""
        return self._mark

    def load_attempts(self) -> dict[int, int]:
        """Deaths by offset."""
        return dict(self._attempts)

    def save_attempts(self, attempts: dict[int, int]) -> None:
        """Replace them."""
        self._attempts = dict(attempts)


class SimulatedHost:
    """A plugin host with a durable cursor. It may die before, in or after each hook; a poison event kills it each time.

    ``handled`` keeps over its deaths what its hook has finished: a plugin's effects in the world. Dead letters count as finished.
    """

    def __init__(
        self, world: World, weather: Weather, broker: SimulatedBroker, name: str, choice: Filter, *, poison: int | None = None,
        commit_first: bool = False,
    ) -> None:  # fmt: skip
        self.handled: list[tuple[int, bytes]] = []
        self.buried = 0
        self.deaths = 0
        self.dies_in_hook = 0.0
        self._world, self._weather, self._broker = world, weather, broker
        self._name = name
        self._commits = Commits(name)
        self._choice = choice
        self._poison = poison
        self._commit_first = commit_first
        self.supervision = Supervision(POLICY, world.time)
        self._marks = MemoryMarks()
        self._reader: SimulatedSubscriber | None = None
        self._asking: Asking | None = None
        self._delivery: Delivery | None = None
        self._stuck = False
        self._life = 0
        self._supervise()

    def _supervise(self) -> None:
        """What the supervisor does: start when it is time, take note of progress, kill what hangs."""
        now = self._world.time
        if self.supervision.due(now):
            self.supervision.started(now)
            self._start()
        elif self.supervision.alive and not self._stuck:
            self.supervision.running(now, self._delivery.finished if self._delivery else -1)
        if self.supervision.tick(now):
            self.kill()
        self._world.after(PROGRESS_SECONDS * self._world.random.random(), self._supervise)

    def _start(self) -> None:
        """A new process: it opens the cursor, then reads on from there."""
        self._life += 1
        self._stuck = False
        life = self._life
        asking = Asking(self._world, self._weather, self._broker, f"{self._name}-{life}", lambda: self._reconnected(life))
        self._asking = asking
        self._commits = Commits(self._name)
        self._delivery = None
        self._open(life)

    def freeze(self) -> None:
        """SIGSTOP, or a hook that never returns: no event gets on until the supervisor notices and kills it."""
        self._stuck = True

    def kill(self) -> None:
        """kill -9; the supervisor decides when it starts again."""
        if not self.supervision.alive:
            return
        self.deaths += 1
        self._life += 1
        self.supervision.exited(self._world.time, "killed")
        if self._reader is not None:
            self._reader.stop()
        self._reader = None
        if self._asking is not None:
            self._asking.stop()

    def settled(self, head: int) -> bool:
        """Everything up to ``head`` is handled, and the cursor says so."""
        delivery, reader = self._delivery, self._reader
        if self._stuck or reader is None or reader.stream.position != head:
            return False
        return delivery is not None and not delivery.uncommitted and self._commits.settled

    def _open(self, life: int) -> None:
        if life != self._life or self._asking is None:
            return
        self._asking.call(wire.OpenCursor(consumer=self._name), lambda reply: self._opened(life, reply))

    def _opened(self, life: int, reply: wire.Reply) -> None:
        if life != self._life or self._delivery is not None:
            return
        cursor = msgspec.msgpack.decode(reply.result, type=wire.Cursor)
        self._delivery = Delivery(cursor.offset, self._marks, MAX_DELIVER)
        self._reader = SimulatedSubscriber(
            self._world,
            self._weather,
            self._broker,
            f"{self._name}-{life}-reader",
            self._choice,
            start=cursor.offset,
            deliver=self._deliver,
        )
        self._commit(life)

    def _deliver(self, offset: int, body: bytes) -> None:
        delivery, draw = self._delivery, self._world.random.random
        if delivery is None or self._stuck:
            return
        verdict = delivery.admit(offset)
        if verdict == "bury":
            self.buried += 1
            self.handled.append((offset, body))
            delivery.bury(offset)
        if verdict != "handle":
            return
        if self._commit_first:
            delivery.end(offset)
        delivery.begin(offset, b"on_step")
        if offset == self._poison or draw() < self.dies_in_hook:
            # The hook works for a while before it kills the process; commits that are under way go on meanwhile.
            self._stuck = True
            life = self._life
            self._world.after(HOOK_SECONDS, lambda: self.kill() if self._life == life else None)
            return
        self.handled.append((offset, body))
        delivery.end(offset)

    def _commit(self, life: int) -> None:
        delivery = self._delivery
        if life != self._life or delivery is None:
            return
        if delivery.uncommitted:
            self._commits.add(delivery.finished, {})
        self._send_commit(life)
        self._world.after(0.05, lambda: self._commit(life))

    def _send_commit(self, life: int) -> None:
        request = self._commits.next()
        if request is None or self._asking is None:
            return

        def done(_: wire.Reply) -> None:
            if life == self._life and self._delivery is not None:
                self._commits.done()
                self._delivery.committed(request.offset)

        self._asking.call(request, done)

    def _reconnected(self, life: int) -> None:
        if life != self._life:
            return
        if self._delivery is None:
            self._open(life)
        elif not self._commits.settled:
            self._commits = Commits(self._name)
            self._commits.add(self._delivery.finished, {})
            self._send_commit(life)
