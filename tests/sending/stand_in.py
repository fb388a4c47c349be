"""A small broker for tests of the sending side: speaks the wire, keeps events in memory, and misbehaves on request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import zmq

from trainbus.bus import events, wire
from trainbus.bus.home import Connection, write_connection


class StandIn:
    """A ROUTER in a thread. Switches: ``mute`` (takes, never answers), ``hold`` (takes, and answers at the next sign of life),
    ``lose`` (drops the next n batches unseen), ``take`` (takes only n more batches, and loses the others)."""

    def __init__(self, root: Path | None = None, *, journal: str = "journal-1", endpoint: str = "tcp://127.0.0.1:0") -> None:
        self.root = root
        self.journal = journal
        self.bodies: dict[str, list[bytes]] = {}
        self.gaps: list[wire.Skipped] = []
        self.refused = 0
        self.hellos: list[wire.Hello] = []
        self.byes: list[str] = []
        self.beats: list[wire.Beat] = []
        self.mute = self.hold = False
        self.lose = 0
        self.take: int | None = None
        self.endpoint = endpoint
        self._expected: dict[str, int] = {}
        self._outgoing: list[wire.Message] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> StandIn:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; again on the same port after `stop`."""
        self._stop.clear()
        context = zmq.Context()
        router = context.socket(zmq.ROUTER)
        router.set(zmq.LINGER, 0)
        wait_for(lambda: _bound(router, self.endpoint))
        self.endpoint = router.get(zmq.LAST_ENDPOINT).decode().rstrip("\0")
        if self.root is not None:
            write_connection(Connection(router=self.endpoint, xpub="", journal=self.journal, pid=0), self.root)
        self._thread = threading.Thread(target=self._run, args=(context, router), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Die; what is committed stays."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def deliver(self, command: events.Command) -> None:
        """Send a command to everybody who said Hello."""
        self._outgoing.append(wire.Deliver(offset=1, body=events.encode(command)))

    def events_of(self, source: str) -> list[events.AnyEvent]:
        """What is committed of a source."""
        return [events.decode(body) for body in self.bodies.get(source, [])]

    @property
    def all(self) -> list[events.AnyEvent]:
        """Everything, by source."""
        return [event for source in list(self.bodies) for event in self.events_of(source)]

    def _run(self, context: zmq.Context, router: zmq.Socket) -> None:
        peers: set[bytes] = set()
        held: list[tuple[bytes, bytes]] = []
        while not self._stop.is_set():
            while self._outgoing:
                body = wire.encode(self._outgoing.pop(0))
                for peer in peers:
                    router.send_multipart([peer, body])
            if not router.poll(10):
                continue
            peer, frame = router.recv_multipart()
            message = wire.decode_message(frame)
            if isinstance(message, wire.Hello):
                peers.add(peer)
            if (answer := self._answer(message)) is not None and not self.mute:
                held.append((peer, wire.encode(answer)))
            self.hold = self.hold and not isinstance(message, wire.Beat)
            while held and not self.hold:
                router.send_multipart(held.pop(0))
        router.close(linger=0)
        context.term()

    def _answer(self, message: wire.AnyMessage) -> wire.Message | None:
        if isinstance(message, wire.Hello):
            self.hellos.append(message)
            return wire.Welcome(journal=self.journal, source=message.source, expected=self._expected.get(message.source, 0))
        if isinstance(message, wire.Beat):
            self.beats.append(message)
        elif isinstance(message, wire.Bye):
            self.byes.append(message.source)
        elif isinstance(message, wire.Events):
            if self.lose > 0:
                self.lose -= 1
                return None
            if self.take is not None:
                if self.take == 0:
                    return None
                self.take -= 1
            return self._take(message.source, message.first, message.first + len(message.bodies), message.bodies)
        elif isinstance(message, wire.Skipped):
            answer = self._take(message.source, message.first, message.last + 1, [])
            if isinstance(answer, wire.Ack):
                self.gaps.append(message)
            return answer
        return None

    def _take(self, source: str, first: int, after: int, bodies: list[bytes]) -> wire.Message:
        if first != self._expected.get(source, 0):
            self.refused += 1
            return wire.Rewind(source=source, expected=self._expected.get(source, 0))
        self._expected[source] = after
        self.bodies.setdefault(source, []).extend(bodies)
        return wire.Ack(source=source, expected=after)


def _bound(router: zmq.Socket, endpoint: str) -> bool:
    try:
        router.bind(endpoint)
    except zmq.ZMQError:
        return False
    return True


def wait_for(condition: Callable[[], object], seconds: float = 90.0) -> None:
    """Wait until the condition holds; fails after a generous deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
