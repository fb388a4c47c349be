"""The broker's core with a real journal and a clock that the test turns: what the loop does, one call at a time."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec

from trainbus.bus import events, wire
from trainbus.bus.broker.batch import Batch
from trainbus.bus.broker.core import BrokerCore
from trainbus.bus.broker.effects import Fan, PlanRetention, ReadHistory, Send
from trainbus.bus.broker.journal import Journal
from trainbus.bus.broker.replay import HistoryReader
from trainbus.bus.broker.retention import plan
from trainbus.bus.config import BusConfig
from trainbus.errors import JournalError

SECOND = 1_000_000_000


def step(source: str, seq: int, run: str = "r", **fields) -> bytes:
    """A body as a publisher makes it."""
    return events.encode(events.Step(run=run, source=source, seq=seq, time=SECOND * (seq + 1), step=seq, **fields))


def body(event: events.Event, source: str, seq: int, run: str = "r") -> bytes:
    event.source, event.seq, event.run, event.time = source, seq, run, event.time or SECOND
    return events.encode(event)


class Bench:
    """Plays the loop: `say` is a message that arrives, `commit` is one turn of the committer, `fail` one that goes wrong."""

    def __init__(self, path: Path, **settings) -> None:
        self.path = path
        self.settings = BusConfig(**settings)
        self.now = 1_000.0
        self.wall = 1_700_000_000 * SECOND
        self.ids = (f"id-{number}" for number in itertools.count())
        self.calls = itertools.count(1)
        self.sent: list[tuple[bytes, wire.Message]] = []
        self.frames: list[bytes] = []
        self.open()

    def open(self) -> None:
        self.journal = Journal(self.path, synchronous="OFF")  # these tests cut no power
        self.core = BrokerCore(self.journal.contents, self.settings, now=self.now, wall=lambda: self.wall, new_id=lambda: next(self.ids))

    def restart(self, **settings) -> None:
        """A new broker on the same journal; what was queued in the old one is gone, as after kill -9."""
        self.journal.close()
        if settings:
            self.settings = BusConfig(**settings)
        self.open()

    def close(self) -> None:
        self.journal.close()

    def say(self, message: wire.Message, peer: bytes = b"peer") -> None:
        self.core.receive(peer, message, self.now)
        self.take_effects()

    def hello(self, source: str, run: str = "r", *, peer: bytes = b"peer", **fields) -> wire.Welcome:
        self.say(wire.Hello(source=source, run=run, **fields), peer)
        return self.last(wire.Welcome)

    def publish(self, source: str, *bodies: bytes, first: int = 0, peer: bytes = b"peer") -> None:
        """Events that arrive and are committed."""
        self.say(wire.Events(source=source, first=first, bodies=list(bodies)), peer)
        self.commit()

    def commit(self) -> int:
        """Commit until nothing waits; the number of transactions."""
        for count in itertools.count():
            batch = self.core.take_batch()
            self.take_effects()
            if batch is None:
                return count
            deleted = self.journal.append(batch)
            self.core.committed(batch, deleted)
            self.take_effects()
        return 0

    def fail(self, batch: Batch | None = None) -> None:
        """One commit that goes wrong."""
        batch = batch or self.core.take_batch()
        assert batch is not None, "nothing waits"
        self.core.commit_failed(batch, JournalError("The journal can't be written: disk full.", hint="Free some."))
        self.take_effects()

    def expected(self, source: str) -> int:
        """The source's next seq, as a new connection would be told."""
        return self.hello(source).expected

    def tick(self, seconds: float = 0.0, *, step: float = 0.25) -> None:
        """Let time pass, tick by tick, and commit what follows."""
        until = self.now + seconds
        while True:
            self.now = min(self.now + step, until) if seconds else self.now
            self.core.tick(self.now)
            self.take_effects()
            self.commit()
            if self.now >= until:
                return

    def call(self, request: wire.Request, peer: bytes = b"caller", **fields) -> wire.Reply | wire.Failure:
        """The answer to a request."""
        number = next(self.calls)
        self.say(wire.Call(id=number, request=request, **fields), peer)
        self.commit()
        return next(m for _, m in reversed(self.sent) if isinstance(m, wire.Reply | wire.Failure) and m.id == number)

    def ask(self, request: wire.Request, result: type, **fields):
        answer = self.call(request, **fields)
        assert isinstance(answer, wire.Reply), answer
        return msgspec.msgpack.decode(answer.result, type=result)

    def refused(self, request: wire.Request) -> wire.Failure:
        answer = self.call(request)
        assert isinstance(answer, wire.Failure), answer
        return answer

    def take_effects(self) -> None:
        for effect in self.core.take_effects():
            match effect:
                case Send():
                    # Through bytes, as over the wire.
                    self.sent.append((effect.peer, wire.decode_message(wire.encode(effect.message))))
                case Fan():
                    self.frames.append(effect.frame)
                case ReadHistory():
                    self.sent.append((effect.peer, wire.Reply(id=effect.id, result=msgspec.Raw(wire.encode(self.page(effect))))))
                case PlanRetention():
                    reader = HistoryReader(self.path)
                    self.core.trim(plan(reader, self.settings, effect.wall))
                    reader.close()

    def page(self, effect: ReadHistory) -> wire.Page:
        reader = HistoryReader(self.path)
        try:
            return reader.page(effect.request, effect.head)
        finally:
            reader.close()

    def messages(self, kind: type, peer: bytes | None = None) -> list:
        return [message for to, message in self.sent if isinstance(message, kind) and peer in (None, to)]

    def last(self, kind: type, peer: bytes | None = None):
        found = self.messages(kind, peer)
        assert found, f"no {kind.__name__} was sent"
        return found[-1]

    def forget(self) -> None:
        """Look only at what comes from now on."""
        self.sent.clear()
        self.frames.clear()

    def history(self, **filters) -> list[events.AnyEvent]:
        reader = HistoryReader(self.path)
        try:
            found, after, done = [], -1, False
            while not done:
                page = reader.page(wire.History(after=after, **filters), self.core.head)
                found += [events.decode(body, offset) for offset, body in page.events]
                after, done = page.next, page.done
            return found
        finally:
            reader.close()

    def seqs(self, source: str) -> list[int]:
        return [event.seq for event in self.history() if event.source == source]

    def run(self, run: str = "r") -> wire.RunInfo:
        return next(info for info in self.ask(wire.Runs(), list[wire.RunInfo]) if info.run == run)
