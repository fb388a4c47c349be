"""A broker in a thread that speaks the wire, keeps its journal in memory, and misbehaves on demand.

It stands where the real broker can't be made to do wrong: dropped frames, answers that never come, another journal at the same place.
The contract suite (test_contract.py) runs against it and against the real one.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import zmq

from trainbus.bus import events, wire
from trainbus.bus.home import Connection, connection_file, write_connection

HEARTBEAT_SECONDS = 0.05


class Memory:
    """What a broker's restart leaves: events, cursors, leases."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex[:8]
        self.events: list[tuple[int, str, bytes]] = []
        self.cursors: dict[str, wire.Cursor] = {}
        self.leases: dict[str, tuple[wire.Lease, float]] = {}
        self.dead_letters: list[wire.DeadLetter] = []
        self.last_of_topic: dict[str, int] = {}
        self.commands: list[wire.SendCommand] = []

    @property
    def head(self) -> int:
        return self.events[-1][0] if self.events else -1


class RefusalError(Exception):
    def __init__(self, code: str, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.failure = wire.Failure(code=code, problem=problem, hint=hint)


class StandIn:
    """One life of a broker, from `start` to `stop`; `memory` may be given to the next one."""

    def __init__(self, root: Path, memory: Memory | None = None, *, high_water_mark: int = 10_000) -> None:
        self.root = root
        self.memory = memory or Memory()
        self.drops: Callable[[str, wire.Fanout | wire.Commit], bool] = lambda topic, payload: False
        self.busy = 0
        """So many requests for history are refused as too many at once."""
        self.mute = False
        """While set, requests are read and not answered."""
        self.asked: list[wire.AnyRequest] = []
        self._high_water_mark = high_water_mark
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], queue.SimpleQueue[Any]]] = queue.SimpleQueue()
        self._stopping = False
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stand-in broker", daemon=True)
        self.connection: Connection | None = None

    def start(self) -> StandIn:
        self._thread.start()
        assert self._started.wait(180)
        return self

    def stop(self) -> None:
        self._stopping = True
        self._thread.join(90)

    def __enter__(self) -> StandIn:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def do(self, job: Callable[[], Any]) -> Any:
        """Run ``job`` in the broker's thread and return what it returns."""
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._jobs.put((job, answer))
        return answer.get(timeout=90)

    def commit(self, batch: Sequence[events.Event], *, silently: bool = False) -> int:
        """One commit with its fan-out (none when ``silently``); returns the new head."""
        return self.do(lambda: self._commit(batch, silently))

    def commit_bodies(self, batch: Sequence[tuple[str, bytes]]) -> int:
        """As `commit`, for (topic, body) pairs that are no events of this version."""
        return self.do(lambda: self._commit_bodies(batch, False))

    def heartbeat(self, event: events.Heartbeat) -> None:
        frame = wire.Fanout(previous=-1, events=[(-1, events.encode(event))])
        self.do(lambda: self._fan_out(wire.topic(event.kind, event.run), frame))

    # --- the thread ---

    def _run(self) -> None:
        context = zmq.Context()
        self._router, self._xpub = context.socket(zmq.ROUTER), context.socket(zmq.XPUB)
        for socket in (self._router, self._xpub):
            socket.linger = 0
            socket.sndhwm = self._high_water_mark
        ports = [socket.bind_to_random_port("tcp://127.0.0.1") for socket in (self._router, self._xpub)]
        router, xpub = (f"tcp://127.0.0.1:{port}" for port in ports)
        self.connection = Connection(router=router, xpub=xpub, journal=self.memory.id, pid=os.getpid(), started=time.time_ns())
        write_connection(self.connection, self.root)
        self._started.set()
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        beat = time.monotonic()
        while not self._stopping:
            if poller.poll(2):
                identity, frame = self._router.recv_multipart()
                self._answer(identity, frame)
            while not self._jobs.empty():
                job, answer = self._jobs.get()
                answer.put(job())
            if time.monotonic() >= beat:
                beat = time.monotonic() + HEARTBEAT_SECONDS
                self._mark(self.memory.head, [])
        connection_file(self.root).unlink(missing_ok=True)
        context.destroy(linger=0)

    def _commit(self, batch: Sequence[events.Event], silently: bool) -> int:
        return self._commit_bodies([(wire.topic(event.kind, event.run), events.encode(event)) for event in batch], silently)

    def _commit_bodies(self, batch: Sequence[tuple[str, bytes]], silently: bool) -> int:
        previous = self.memory.head
        frames: dict[str, wire.Fanout] = {}
        for offset, (topic, body) in enumerate(batch, previous + 1):
            self.memory.events.append((offset, topic, body))
            if topic not in frames:
                frames[topic] = wire.Fanout(previous=self.memory.last_of_topic.get(topic, -1), events=[])
            frames[topic].events.append((offset, body))
            self.memory.last_of_topic[topic] = offset
        if not silently:
            for topic, frame in frames.items():
                self._fan_out(topic, frame)
            self._mark(previous, list(frames))
        return self.memory.head

    def _fan_out(self, topic: str, frame: wire.Fanout) -> None:
        if not self.drops(topic, frame):
            self._xpub.send(wire.pack_frame(topic.encode(), frame))

    def _mark(self, previous: int, topics: list[str]) -> None:
        marker = wire.Commit(journal=self.memory.id, previous=previous, head=self.memory.head, topics=topics)
        if not self.drops("~commit", marker):
            self._xpub.send(wire.pack_frame(wire.COMMIT_TOPIC, marker))

    def _answer(self, identity: bytes, frame: bytes) -> None:
        call = wire.decode_message(frame)
        assert isinstance(call, wire.Call)
        self.asked.append(call.request)
        if self.mute:
            return
        answer: wire.Reply | wire.Failure
        try:
            if call.protocol != wire.PROTOCOL:
                self._refuse_protocol(call.protocol)
            answer = wire.Reply(id=call.id, result=msgspec.Raw(wire.encode(self._do(call.request))))
        except RefusalError as refusal:
            answer = refusal.failure
            answer.id = call.id
        self._router.send_multipart([identity, wire.encode(answer)])

    def _refuse_protocol(self, spoken: int) -> None:
        raise RefusalError("protocol", f"This broker speaks protocol {wire.PROTOCOL}, and was asked in {spoken}.")

    # --- requests ---

    def _do(self, request: wire.AnyRequest) -> Any:
        return getattr(self, f"_{type(request).__name__.lower()}")(request)

    def _status(self, request: wire.Status) -> wire.BrokerStatus:
        assert self.connection is not None
        return wire.BrokerStatus(
            pid=os.getpid(), host="", version="0", journal=self.memory.id, journal_path="", router=self.connection.router,
            xpub=self.connection.xpub, head=self.memory.head, events=len(self.memory.events), journal_bytes=0, uptime=0.0,
            commit_failures=0, last_error="", supervisor=None, sources=[], consumers=[], leases=len(self.memory.leases),
        )  # fmt: skip

    def _history(self, request: wire.History) -> wire.Page:
        if self.busy:
            self.busy -= 1
            raise RefusalError("busy", "Too many pages are asked for.", "Try again.")
        head = self.memory.head
        upto = head if request.upto is None else min(request.upto, head)
        found: list[tuple[int, bytes]] = []
        for offset, topic, body in itertools.islice(self.memory.events, max(0, request.after + 1), upto + 1):
            kind, _, run = topic.partition(".")
            if (not request.kinds or kind in request.kinds) and (not request.runs or run in request.runs):
                found.append((offset, body))
            if len(found) == request.limit:
                return wire.Page(events=found, next=offset, head=head, done=offset >= upto)
        return wire.Page(events=found, next=max(upto, request.after), head=head, done=True)

    def _opencursor(self, request: wire.OpenCursor) -> wire.Cursor:
        if request.consumer not in self.memory.cursors:
            offset = {"beginning": -1, "now": self.memory.head}.get(request.start, request.start)  # type: ignore[call-overload]
            self.memory.cursors[request.consumer] = wire.Cursor(
                consumer=request.consumer, offset=offset, journal=self.memory.id, head=self.memory.head
            )
        cursor = self.memory.cursors[request.consumer]
        cursor.head = self.memory.head
        return cursor

    def _cursor(self, consumer: str) -> wire.Cursor:
        if consumer not in self.memory.cursors:
            raise RefusalError("unknown", f"There is no consumer {consumer!r}.", "`trainbus status` lists them.")
        return self.memory.cursors[consumer]

    def _commitcursor(self, request: wire.CommitCursor) -> None:
        cursor = self._cursor(request.consumer)
        cursor.offset = max(cursor.offset, request.offset)
        for key, value in request.state.items():
            cursor.state.pop(key, None)
            if value is not None:
                cursor.state[key] = value

    def _resetcursor(self, request: wire.ResetCursor) -> wire.Cursor:
        cursor = self._cursor(request.consumer)
        cursor.offset = request.offset
        return cursor

    def _dropcursor(self, request: wire.DropCursor) -> None:
        self.memory.cursors.pop(request.consumer, None)

    def _consumers(self, request: wire.Consumers) -> list[wire.Cursor]:
        return list(self.memory.cursors.values())

    def _adddeadletter(self, request: wire.AddDeadLetter) -> None:
        letter = wire.DeadLetter(
            consumer=request.consumer, offset=request.offset, attempts=request.attempts, reason=request.reason, time=time.time_ns()
        )
        self.memory.dead_letters.append(letter)

    def _deadletters(self, request: wire.DeadLetters) -> list[wire.DeadLetter]:
        return [letter for letter in self.memory.dead_letters if request.consumer in ("", letter.consumer)]

    def _runs(self, request: wire.Runs) -> list[wire.RunInfo]:
        names = dict.fromkeys(topic.partition(".")[2] for _, topic, _ in self.memory.events)
        return [wire.RunInfo(run=name) for name in reversed(names) if name]

    def _held(self) -> dict[str, tuple[wire.Lease, float]]:
        now = time.monotonic()
        self.memory.leases = {key: held for key, held in self.memory.leases.items() if held[1] > now}
        return self.memory.leases

    def _takelease(self, request: wire.TakeLease) -> wire.Lease:
        for lease, _ in self._held().values():
            if lease.resource == request.resource and "exclusive" in (lease.mode, request.mode):
                raise RefusalError("conflict", f"{lease.holder} holds {lease.resource} ({lease.mode}).", "Wait until it is given back.")
        lease = wire.Lease(id=uuid.uuid4().hex, resource=request.resource, holder=request.holder, mode=request.mode, expires_in=request.ttl)
        self._held()[lease.id] = (lease, time.monotonic() + request.ttl)
        return lease

    def _renewlease(self, request: wire.RenewLease) -> wire.Lease:
        if request.id not in self._held():
            raise RefusalError("unknown", "The lease has expired.", "Take it again.")
        lease = self.memory.leases[request.id][0]
        lease.expires_in = request.ttl
        self.memory.leases[request.id] = (lease, time.monotonic() + request.ttl)
        return lease

    def _releaselease(self, request: wire.ReleaseLease) -> None:
        self._held().pop(request.id, None)

    def _leases(self, request: wire.Leases) -> list[wire.Lease]:
        return [lease for lease, _ in self._held().values()]

    def _sendcommand(self, request: wire.SendCommand) -> dict[str, str]:
        if request.run not in {topic.partition(".")[2] for _, topic, _ in self.memory.events}:
            raise RefusalError("unknown", f"The journal knows no run {request.run!r}.", "`trainbus runs list` shows those it knows.")
        self.memory.commands.append(request)
        return {"id": uuid.uuid4().hex}

    def _supervise(self, request: wire.Supervise) -> list[Any]:
        raise RefusalError("no_supervisor", "No supervisor is registered.", "Start one with `trainbus up`.")
