"""The real broker in a process of its own, with a publisher of three lines, so that the reading side is tested against both."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

import zmq

from trainbus.bus import events, wire
from trainbus.bus.home import Connection, read_connection

ANSWER_MS = 20_000


class RealBroker:
    """One life of the broker's process; the journal stays in ``root``."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.root = root
        command = [sys.executable, "-m", "trainbus.bus.broker", "--root", str(root), "--config", json.dumps(settings)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), "the broker did not start"
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.connect(self.connection.router)
        self._source = uuid.uuid4().hex[:16]
        self._numbers = itertools.count()
        self._say(wire.Hello(source=self._source, run="a", name="a"))

    @property
    def connection(self) -> Connection:
        return read_connection(self.root)

    @property
    def pid(self) -> int:
        return self._process.pid

    def commit(self, batch: Sequence[events.Event]) -> None:
        """Publish, and wait until it is committed."""
        for event in batch:
            event.source, event.seq, event.time = self._source, next(self._numbers), 1
        self.commit_bodies([events.encode(event) for event in batch], batch[0].seq)

    def commit_bodies(self, bodies: list[bytes], first: int) -> None:
        for start in range(0, len(bodies), wire.MAX_BATCH_EVENTS):
            part = bodies[start : start + wire.MAX_BATCH_EVENTS]
            expected = first + start + len(part)
            answer = self._say(wire.Events(source=self._source, first=first + start, bodies=part))
            while not (isinstance(answer, wire.Ack) and answer.expected >= expected):
                answer = self._hear()

    def next_seq(self) -> int:
        return next(self._numbers)

    @property
    def source(self) -> str:
        return self._source

    def stop(self, *, number: int = signal.SIGTERM) -> None:
        self._context.destroy(linger=0)
        if self._process.poll() is None:
            os.kill(self._process.pid, number)
        self._process.wait(20)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _say(self, message: wire.Message) -> wire.Message:
        self._socket.send(wire.encode(message))
        return self._hear()

    def _hear(self) -> wire.Message:
        assert self._socket.poll(ANSWER_MS), "the broker does not answer"
        return wire.decode_message(self._socket.recv())
