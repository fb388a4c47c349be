"""The broker without I/O: messages and time come in, effects and batches go out.

    core.receive(peer, message, now)      a message arrived
    core.tick(now)                        time passed
    batch = core.take_batch()             what should be committed next (one batch at a time)
    core.committed(batch)                 it is durable: acknowledgements, answers and fan-out become effects
    core.commit_failed(batch, error)      it is not: nothing is acknowledged, publishers are told to send again
    core.take_effects()                   what to send and read

Whatever changes the journal happens in `take_batch`, on top of what is committed, and never while another batch is under way:
a failed commit therefore has exactly one layer of changes to roll back. Checking and queueing events goes on meanwhile (`Intake`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec
from msgspec import Struct, structs

from trainbus.bus import events, wire
from trainbus.bus.broker import liveness, retention
from trainbus.bus.broker.answers import failure, keys_alert
from trainbus.bus.broker.batch import Batch, Contents
from trainbus.bus.broker.draft import Draft, Numbers
from trainbus.bus.broker.effects import Effect, Fan, PlanRetention, Send
from trainbus.bus.broker.outbox import Outbox
from trainbus.bus.broker.publishers import Publishers
from trainbus.bus.broker.requests import Requests
from trainbus.bus.config import BusConfig
from trainbus.bus.events import DECODE_ERRORS
from trainbus.errors import TrainbusError

FIRST_PAUSE = 0.1
"""Seconds before the next commit after one that failed; doubled each time."""

LONGEST_PAUSE = 5.0

Authorize: TypeAlias = Callable[[str, wire.AnyMessage], str]
"""Asked for each message: why this client may not send it, or "" when it may. Must not block."""


def allow_all(user: str, message: wire.AnyMessage) -> str:
    """The rule without keys: whoever reaches the port may do everything."""
    return ""


class Identity(Struct, frozen=True):
    """Where this broker is, for status."""

    pid: int = 0
    host: str = ""
    version: str = ""
    journal_path: str = ""
    router: str = ""
    xpub: str = ""


class CoreStats(Struct, frozen=True):
    """Counters since the start."""

    head: int
    commits: int
    commit_failures: int
    protocol_errors: int
    rejected: int
    queued_bytes: int
    last_error: str


class _Flight(Struct):
    """A batch under way, and what happens once it is durable."""

    batch: Batch
    draft: Draft
    fans: list[tuple[bytes, wire.Fanout]]
    own: list[events.Event]
    answers: list[tuple[bytes, wire.Reply | wire.Failure]]
    released: list[str]
    deleting: bool


class _Salvage(Struct):
    """What may still be read of a message that can't be decoded."""

    id: int = -1
    protocol: int = wire.FIRST_PROTOCOL


class BrokerCore:
    """The rules of the broker.

    Args:
        contents: What the journal holds.
        settings: The ``[bus]`` section.
        now: Monotonic seconds.
        wall: Nanoseconds since the epoch, for stamps.
        new_id: Makes random ids; a simulation passes a seeded one.
        identity: What status says of this process.
        authorize: Asked before any message is acted on.
    """

    def __init__(
        self,
        contents: Contents,
        settings: BusConfig,
        *,
        now: float,
        wall: Callable[[], int],
        new_id: Callable[[], str],
        identity: Identity | None = None,
        authorize: Authorize = allow_all,
    ) -> None:
        self.head = contents.head
        self.journal = contents.journal
        self.source = new_id()
        self.identity = identity or Identity()
        self.journal_bytes = 0
        self.keys: wire.KeysStatus | None = None
        self._settings = settings
        self._wall = wall
        self._authorize = authorize
        self._tables = contents.tables
        self._numbers = Numbers(contents.tables)
        self._requests = Requests(contents.tables, contents.journal, new_id=new_id, now=now, status=self.status)
        self._outbox = Outbox()
        self._publishers = Publishers(contents.tables, contents.journal, self._outbox, lost_after=settings.lost_after, wall=wall, now=now)
        self._flight: _Flight | None = None
        self._started = self._now = self._ticked = self._marked = self._planned = self._retry_at = now
        self._pause = 0.0
        self._deleted = contents.deleted
        self._commits = self._failures = 0
        self._last_error = ""

    # --- what comes in ------------------------------------------------------------------------------

    def receive_frame(self, peer: bytes, frame: bytes, now: float, user: str = "") -> None:
        """A frame arrived, from a peer with the key of client ``user``; one that is no message is answered by a failure and counted."""
        try:
            message = wire.decode_message(frame)
        except DECODE_ERRORS as error:
            self._undecodable(peer, frame, error)
        else:
            self.receive(peer, message, now, user)

    def receive(self, peer: bytes, message: wire.AnyMessage, now: float, user: str = "") -> None:
        """A message of ``peer`` arrived."""
        self._now = max(self._now, now)
        if refusal := self._authorize(user, message):
            call = message.id if isinstance(message, wire.Call) else -1
            self._outbox.send(peer, wire.Failure(id=call, code="forbidden", problem=refusal, hint="Ask for a key with another role."))
        elif isinstance(message, wire.Events | wire.Skipped | wire.Beat | wire.Bye):
            self._publishers.receive(peer, message, self._now)
        elif isinstance(message, wire.Call):
            if message.protocol == wire.PROTOCOL:
                self._outbox.effects += self._requests.receive(peer, message, self.head, self._now)
            else:
                self._outbox.other_version(peer, message.id, message.protocol)
        elif isinstance(message, wire.Hello):
            feed = self._publishers.hello(peer, message, self._now)
            if feed is not None and feed.owner:
                self._requests.commands.owner_returned(feed.run)
                self._deliver()
        elif isinstance(message, wire.Forwarded):
            self._outbox.effects += self._requests.supervision.answered(peer, message)
        else:
            self._outbox.refuse(peer, -1, f"{type(message).__name__} is a message that only a broker sends.")

    def guarded(self, keys: wire.KeysStatus | None) -> None:
        """How it stands with the keys. That nobody can be let in any more, and that it is over, is told by an alert."""
        before = self.keys.problem if self.keys is not None else ""
        self.keys = keys
        problem = keys.problem if keys is not None else ""
        if problem != before:
            self._last_error = problem or self._last_error
            self._outbox.own.append(keys_alert(problem, self.identity.host, before))

    def subscribed(self) -> None:
        """A subscriber asked for the commit markers: it needs not wait for the next one."""
        self._mark(self.head, ())

    def trim(self, plan: retention.Plan | None) -> None:
        """The answer to `PlanRetention`."""
        if plan is not None:
            self._requests.deletions.retain(plan.oldest, min(plan.upto, self.head), plan.setting)

    def tick(self, now: float) -> None:
        """Time passed. To be called several times within each `heartbeat_interval` and `lost_after`."""
        if now - self._ticked > self._settings.lost_after / 2:
            self._requests.leases.resumed(now)
        self._ticked = self._now = max(self._now, now)
        self._publishers.tick(self._now)
        self._outbox.effects += self._requests.supervision.tick(now)
        self._deliver()
        if now - self._marked >= self._settings.heartbeat_interval:
            self._mark(self.head, ())
        if retention.wanted(self._settings) and now - self._planned >= retention.INTERVAL:
            self._planned = now
            self._outbox.effects.append(PlanRetention(self._wall()))

    # --- what goes out ------------------------------------------------------------------------------

    def take_effects(self) -> list[Effect]:
        """What has to be done since the last time."""
        effects, self._outbox.effects = self._outbox.effects, []
        return effects

    @property
    def busy(self) -> bool:
        """Whether something waits to be committed, or is being committed."""
        return self._flight is not None or self._waiting()

    @property
    def queued_bytes(self) -> int:
        """Size of the events that wait for a batch."""
        return self._publishers.intake.queued_bytes

    def take_batch(self) -> Batch | None:
        """What to commit next; None while a batch is under way, when there is nothing, or in the pause after a failure."""
        if self._flight is not None or self._now < self._retry_at or not self._waiting():
            return None
        draft = Draft(self._tables, self.head, self._numbers, self.source, self._wall())
        own = list(self._outbox.own)
        self._outbox.own.clear()
        # The broker's own events first: what it noticed (a lost run) came before what now waits (a sign of life).
        for event in own:
            draft.make(structs.replace(event))
        while not draft.full and (item := self._publishers.intake.take()) is not None:
            draft.add(item)
        self._requests.leases.expire(self._now)
        answers = self._requests.apply(draft, self.head, self._now)
        self._fold_milestones(draft)
        deleting = self._requests.deletions.waiting
        delete = self._requests.deletions.next(draft)
        released = self._publishers.release_owners()
        batch, fans = draft.finish(delete)
        flight = _Flight(batch, draft, fans, own, answers, released, deleting)
        if not batch.rows and not batch.changes and delete is None:
            self._settle(flight, 0)
            return None
        self._flight = flight
        return batch

    def committed(self, batch: Batch, deleted: int = 0) -> None:
        """``batch`` is durable; ``deleted`` is what `Journal.append` returned."""
        flight = self._landed(batch)
        previous, self.head = self.head, batch.head
        self._deleted += deleted
        self._commits += 1
        self._pause = 0.0
        self._settle(flight, deleted)
        # Subscribers first: somebody waits for events, nobody for an acknowledgement.
        self._outbox.effects += [Fan(wire.pack_frame(topic, fanout)) for topic, fanout in flight.fans]
        if flight.fans:
            self._mark(previous, [topic.decode() for topic, _ in flight.fans])
        for feed in flight.draft.feeds.values():
            expected = self._publishers.intake.expected(feed.source)
            self._outbox.send(feed.peer, wire.Ack(source=feed.source, expected=expected))
        for event, own in flight.draft.milestones:
            if isinstance(event, events.RunEnded) and not own:
                self._publishers.liveness.ended(event.source, event.run)
        self._deliver()

    def commit_failed(self, batch: Batch, error: TrainbusError) -> None:
        """``batch`` is not durable and never will be: everything goes back to what the journal holds."""
        flight = self._landed(batch)
        self._failures += 1
        self._last_error = error.problem
        self._pause = min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
        self._retry_at = self._now + self._pause
        self._tables.rollback()
        self._requests.settled()
        self._outbox.own.extendleft(reversed(flight.own))
        self._outbox.effects += self._publishers.intake.commit_failed()
        for peer, answer in flight.answers:
            self._outbox.send(peer, failure(answer.id, error))

    def status(self) -> wire.BrokerStatus:
        """The broker's own figures."""
        return wire.BrokerStatus(
            **structs.asdict(self.identity),
            journal=self.journal,
            head=self.head,
            events=self.head + 1 - self._deleted,
            journal_bytes=self.journal_bytes,
            uptime=self._now - self._started,
            commit_failures=self._failures,
            last_error=self._last_error,
            supervisor=self._requests.supervision.pid,
            sources=self._publishers.statuses(self._now),
            consumers=self._requests.cursors.listing(self.head),
            leases=len(self._requests.leases.listing(self._now)),
            keys=self.keys,
        )

    def stats(self) -> CoreStats:
        """Counters since the start."""
        return CoreStats(
            head=self.head,
            commits=self._commits,
            commit_failures=self._failures,
            protocol_errors=self._outbox.protocol_errors,
            rejected=self._publishers.intake.rejected,
            queued_bytes=self.queued_bytes,
            last_error=self._last_error,
        )

    # --- batches ------------------------------------------------------------------------------------

    def _waiting(self) -> bool:
        requests = self._requests
        return bool(
            self._publishers.waiting
            or self._outbox.own
            or requests.waiting
            or requests.deletions.waiting
            or requests.leases.expired(self._now)
        )

    def _fold_milestones(self, draft: Draft) -> None:
        """Let run summaries follow. What follows from an event (a refused command, a cleared alert) joins the same batch; the
        list of milestones grows while we walk it.
        """
        for event, own in draft.milestones:
            before = draft.fold(event, own=own)
            if isinstance(event, events.CommandResult):
                self._requests.commands.result(event)
            elif isinstance(event, events.RunEnded) and event.outcome != "lost":
                self._requests.commands.run_ended(event.run, draft)
                lost_source = self._publishers.liveness.lost_source(event.run)
                if before.state == "lost" and lost_source is not None:
                    draft.make(liveness.found_event(event.run, lost_source, f"Run {event.run} was not lost: it {event.outcome}."))

    def _landed(self, batch: Batch) -> _Flight:
        flight = self._flight
        if flight is None or flight.batch is not batch:
            raise ValueError("this batch is not the one under way")
        self._flight = None
        return flight

    def _settle(self, flight: _Flight, deleted: int) -> None:
        """The flight's changes are durable (or there were none): give the answers."""
        self._tables.commit()
        self._requests.settled()
        self._publishers.released(flight.released)
        self._outbox.effects += [Send(peer, answer) for peer, answer in flight.answers]
        if flight.deleting and (answer := self._requests.deletions.committed(deleted)):
            self._outbox.send(*answer)

    def _mark(self, previous: int, topics: Sequence[str]) -> None:
        self._marked = self._now
        marker = wire.Commit(self.journal, previous, self.head, list(topics))
        self._outbox.effects.append(Fan(wire.pack_frame(wire.COMMIT_TOPIC, marker)))

    def _deliver(self) -> None:
        owners = self._publishers.owners()
        for command in self._requests.commands.due(self._now):
            if feed := owners.get(command.run):
                self._outbox.send(feed.peer, wire.Deliver(offset=command.offset, body=command.body))
                self._requests.commands.delivered(command.id, self._now)

    # --- what can't be served -----------------------------------------------------------------------

    def _undecodable(self, peer: bytes, frame: bytes, error: Exception) -> None:
        """A newer version's message may be undecodable just because it is newer: say that, if its version can be read."""
        try:
            salvage = msgspec.msgpack.decode(frame, type=_Salvage)
        except DECODE_ERRORS:
            salvage = _Salvage()
        if salvage.protocol != wire.PROTOCOL:
            self._outbox.other_version(peer, salvage.id, salvage.protocol)
        else:
            self._outbox.refuse(peer, salvage.id, f"A frame of {len(frame)} bytes is no message: {error}.")
