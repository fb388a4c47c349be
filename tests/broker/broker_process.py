"""A real broker process and a raw client that speaks wire.py over pyzmq."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest
import zmq

from trainbus.bus import events, home, wire

DEADLINE = 90.0


def wait_for(condition: Callable[[], object], *, what: str = "") -> object:
    """Ask until the answer is true."""
    end = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {DEADLINE} s: {what or condition}"
        time.sleep(0.005)
    return value


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of a few megabytes; the test is skipped where mounting is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(file: Path) -> None:
    """Write until the disk is full."""
    with file.open("wb", buffering=0) as stream, suppress(OSError):
        while stream.write(bytes(65_536)) == 65_536:
            pass
        while stream.write(bytes(512)):
            pass


class BrokerProcess:
    """``python -m trainbus.bus.broker`` on a journal."""

    def __init__(self, root: Path, *, lifeline: int | None = None, **settings) -> None:
        command = [sys.executable, "-m", "trainbus.bus.broker", "--root", str(root), "--config", json.dumps(settings)]
        passed = () if lifeline is None else (lifeline,)
        if lifeline is not None:
            command += ["--lifeline", str(lifeline)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=passed)
        self.clients: list[RawClient] = []
        line = self.process.stdout.readline()
        self.connection = msgspec.json.decode(line, type=home.Connection) if line else None

    @property
    def pid(self) -> int:
        return self.process.pid

    def client(self) -> RawClient:
        self.clients.append(RawClient(self.connection.router, self.connection.xpub))
        return self.clients[-1]

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.send(number)
        return self.ended()

    def ended(self) -> int:
        return self.process.wait(DEADLINE)

    def errors(self) -> str:
        self.ended()
        return self.process.stderr.read()

    def close(self) -> None:
        for client in self.clients:
            client.close()
        if self.process.poll() is None:
            self.send(signal.SIGCONT)
            self.process.kill()
        self.process.wait(DEADLINE)
        self.process.stdout.close()
        self.process.stderr.close()


class RawClient:
    """One DEALER and, on request, one SUB."""

    def __init__(self, router: str, xpub: str = "") -> None:
        self.context = zmq.Context()
        self.dealer = self.context.socket(zmq.DEALER)
        self.dealer.connect(router)
        self.sub: zmq.Socket | None = None
        self.xpub = xpub
        self.calls = itertools.count(1)

    def send(self, message: wire.Message) -> None:
        self.dealer.send(wire.encode(message))

    def receive(self, kind: type):
        """The next message of a type; others are passed by."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            if self.dealer.poll(100):
                message = wire.decode_message(self.dealer.recv())
                if isinstance(message, kind):
                    return message
        raise AssertionError(f"no {kind} within {DEADLINE} s")

    def hello(self, source: str, run: str = "r", **fields) -> wire.Welcome:
        self.send(wire.Hello(source=source, run=run, **fields))
        return self.receive(wire.Welcome)

    def publish(self, source: str, bodies: list[bytes], first: int = 0) -> None:
        """Events, until they are acknowledged."""
        self.send(wire.Events(source=source, first=first, bodies=bodies))
        while self.receive(wire.Ack).expected < first + len(bodies):
            pass

    def call(self, request: wire.Request) -> wire.Reply | wire.Failure:
        number = next(self.calls)
        self.send(wire.Call(id=number, request=request))
        while (answer := self.receive((wire.Reply, wire.Failure))).id != number:
            pass
        return answer

    def ask(self, request: wire.Request, result: type):
        answer = self.call(request)
        assert isinstance(answer, wire.Reply), answer
        return msgspec.msgpack.decode(answer.result, type=result)

    def status(self) -> wire.BrokerStatus:
        return self.ask(wire.Status(), wire.BrokerStatus)

    def history(self, **filters) -> list[events.AnyEvent]:
        found, after, done = [], -1, False
        while not done:
            page = self.ask(wire.History(after=after, **filters), wire.Page)
            found += [events.decode(body, offset) for offset, body in page.events]
            after, done = page.next, page.done
        return found

    def subscribe(self, *topics: bytes) -> None:
        """Subscribe to topics and commit markers; returns once a marker has come, so nothing is missed from here on."""
        self.sub = self.context.socket(zmq.SUB)
        for topic in (*topics, wire.COMMIT_TOPIC):
            self.sub.subscribe(topic)
        self.sub.connect(self.xpub)
        self.frame()

    def frame(self) -> tuple[bytes, wire.Fanout | wire.Commit]:
        assert self.sub.poll(DEADLINE * 1000), "nothing was fanned out"
        topic, payload = wire.split_frame(self.sub.recv())
        return topic, msgspec.msgpack.decode(payload, type=wire.Commit if topic == wire.COMMIT_TOPIC else wire.Fanout)

    def close(self) -> None:
        self.context.destroy(linger=0)
