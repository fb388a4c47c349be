"""Rows: who else speaks to the broker, or tries to be it."""

from __future__ import annotations

import random
import resource
import socket
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from tests.broker.broker_process import RawClient
from tests.conftest import ROOT
from tests.faults.matrix.mutants import Change, copied_tree
from tests.faults.matrix.row import row
from tests.faults.matrix.stage import BUS, PATIENCE, Stage
from tests.faults.workers import EVENTS, WORKERS
from tests.support import trainbus, wait_for
from trainbus.bus import wire
from trainbus.bus.home import read_connection

OVERSIZE = """
import sys, time, zmq
router, xpub, *sizes = sys.argv[1:]
context = zmq.Context()
for size in map(int, sizes):
    dealer, subscriber = context.socket(zmq.DEALER), context.socket(zmq.SUB)
    dealer.connect(router)
    dealer.send(b"x" * size)
    subscriber.connect(xpub)
    subscriber.subscribe(b"x" * 100_000)  # libzmq itself overflows its stack at a million
print("sent", flush=True)
time.sleep(3600)
"""
NEWER = (Change("trainbus/bus/wire.py", "\nPROTOCOL = 1\n", "\nPROTOCOL = 2\n"),)


@row("second-broker", "a second broker and a second `up`", "D10")
def second_broker(stage: Stage) -> None:
    """Refused with the holder's process id; the first one's connection file stays and events go on."""
    trainer = stage.system()
    before = read_connection(stage.root)
    command = [sys.executable, "-m", "trainbus.bus.broker", "--root", str(stage.root)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 5, second.stderr
    assert f"process {before.pid}" in second.stderr
    up = trainbus("up", "--detach")
    assert up.returncode == 4, up.stderr
    assert read_connection(stage.root) == before
    stage.moment(trainer)


def workers(stage: Stage, method: str) -> None:
    trainer = stage.system()
    file = stage.folder / "sources"
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.workers", method, str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    stage.others = {source: int(count) for source, count in (line.split() for line in file.read_text().splitlines())}
    assert len(stage.others) == (1 if method == "fork" else 1 + WORKERS)
    if method == "fork":
        assert done.stderr.count("forked process") == WORKERS, done.stderr
        assert not stage.events("metric")
    else:
        assert len(stage.events("metric")) == WORKERS * EVENTS
    stage.moment(trainer)


for _method in ("fork", "spawn", "forkserver"):
    row(f"workers-{_method}", f"workers by {_method}", "D9" if _method == "fork" else "D3")(partial(workers, method=_method))


@row("old-client", "a client of protocol 1 that knows little, and one from the future", "D3 D5")
def old_client(stage: Stage) -> None:
    """Plain maps as docs/protocol.md describes them: only the fields that must be there, then with unknown fields and unknown kinds."""
    trainer = stage.system()
    with ExitStack() as ending:
        client = RawClient(read_connection(stage.root).router)
        ending.callback(client.close)
        for source, extra in (("old", {}), ("future", {"from_the_future": [1, 2]})):
            kinds = ["step", "metric"] if source == "old" else ["step", "hologram"]
            fields = {"step": {"step": 1}, "metric": {"name": "x", "value": 1.0}, "hologram": {"angle": 1.5}}
            bodies = [
                msgspec.msgpack.encode({"kind": kind, "run": "old", "source": source, "seq": seq, "time": seq + 1, **fields[kind], **extra})
                for seq, kind in enumerate(stage.chance.choice(kinds) for _ in range(50))
            ]
            client.dealer.send(msgspec.msgpack.encode({"type": "hello", "protocol": 1, "source": source, "run": "old", **extra}))
            assert client.receive(wire.Welcome).expected == 0
            client.dealer.send(msgspec.msgpack.encode({"type": "events", "source": source, "first": 0, "bodies": bodies, **extra}))
            while client.receive(wire.Ack).expected < len(bodies):
                pass
            stage.others[source] = len(bodies)
        stage.moment(trainer)


@row(
    "newer-client",
    "a trainer of a later protocol",
    "D1 D2 D4",
    note="its spool keeps everything until a trainbus of the broker's version drains it",
)
def newer_client(stage: Stage) -> None:
    tree = copied_tree(stage.folder / "newer", *NEWER)
    stage.up("alpha", "beta", bus=BUS)
    trainer = stage.train(tree=tree)
    stage.moment(trainer)
    wait_for(lambda: "protocol" in trainer.words(), PATIENCE, what="a word about the protocol")
    assert not stage.seqs(trainer.board.source)
    trainer.kill()
    stage.mended()
    stage.drain()
    stage.recovered()


@row("newer-broker", "a broker of a later protocol, replaced by one of ours", "D1 D2")
def newer_broker(stage: Stage) -> None:
    tree = copied_tree(stage.folder / "newer", *NEWER)
    command = [sys.executable, "-m", "trainbus.bus.broker", "--root", str(stage.root)]
    broker = subprocess.Popen(command, cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with ExitStack() as ending:
        ending.callback(broker.wait)
        ending.callback(broker.kill)
        ending.callback(broker.stdout.close)
        assert broker.stdout.readline()
        trainer = stage.train()
        wait_for(lambda: "protocol" in trainer.words(), PATIENCE, what="a word about the protocol")
        stage.moment(trainer)
    stage.up("alpha", "beta", bus=BUS)
    stage.mended()
    stage.recovered()
    stage.moment(trainer)


def ports(stage: Stage) -> list[tuple[str, int]]:
    connection = read_connection(stage.root)
    return [(part.hostname, part.port) for part in map(urlsplit, (connection.router, connection.xpub))]


def openings(chance: random.Random) -> list[bytes]:
    """Random bytes, other people's protocols, and greetings of ours that go on wrongly."""
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01"
    hello = greeting + b"NULL".ljust(20, b"\0") + bytes(32)
    return [
        chance.randbytes(2_000), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01" + chance.randbytes(200), greeting,
        hello + chance.randbytes(500), hello + b"\x06" + (2**62).to_bytes(8, "big"), hello + b"\x04\x29\x05READY" + chance.randbytes(35),
        hello + b"\x02" + (2**40).to_bytes(8, "big"),
    ]  # fmt: skip


@row("garbage", "garbage on both ports", "D3 D5")
def garbage(stage: Stage) -> None:
    """Bytes that are no ZMTP, and well-framed messages that are no messages."""
    trainer = stage.system()
    with ExitStack() as ending:
        for place in ports(stage):
            for opening in openings(stage.chance):
                peer = ending.enter_context(socket.create_connection(place, 10))
                peer.sendall(opening)
        client = RawClient(read_connection(stage.root).router)
        ending.callback(client.close)
        good = wire.encode(wire.Events(source="s", first=0, bodies=[b"\x80"]))
        for _ in range(500):
            frame = bytearray(good)
            for _ in range(stage.chance.randint(1, 6)):
                frame[stage.chance.randrange(len(frame))] = stage.chance.randrange(256)
            client.dealer.send(bytes(frame[: stage.chance.randint(0, len(frame))]))
            client.dealer.send_multipart([stage.chance.randbytes(8), bytes(frame)])
        stage.moment(trainer)
        stage.mended()
        stage.recovered()


@row("flood", "floods: silent connections, questions that nobody reads the answers of", "D3 D5")
def flood(stage: Stage) -> None:
    trainer = stage.system()
    with ExitStack() as ending:
        for place in ports(stage):
            for _ in range(150):
                ending.enter_context(socket.create_connection(place, 10))
        client = RawClient(read_connection(stage.root).router)
        ending.callback(client.close)
        client.dealer.set_hwm(0)
        for number in range(5_000):
            request = stage.chance.choice((wire.Status(), wire.History(after=-1, limit=2_000), wire.Runs()))
            client.send(wire.Call(id=number, request=request))
        stage.moment(trainer)
        stage.mended()
        stage.recovered()


@row("oversize", "messages beyond the largest size", "D3 D5")
def oversize(stage: Stage) -> None:
    """Each costs its sender the connection, and nobody else anything."""
    trainer = stage.system()
    connection = read_connection(stage.root)
    sizes = [wire.MAX_MESSAGE_BYTES + stage.chance.randrange(1, 1_000_000) for _ in range(3)]
    command = [sys.executable, "-c", OVERSIZE, connection.router, connection.xpub, *map(str, sizes)]
    sender = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with ExitStack() as ending:
        ending.callback(sender.wait)
        ending.callback(sender.kill)
        ending.callback(sender.stdout.close)
        assert sender.stdout.readline()
        stage.moment(trainer)
        stage.mended()
        stage.recovered()


@row("files-broker", "the broker has no file descriptor left, and a plugin dies", "D3 D5 D6")
def files_broker(stage: Stage) -> None:
    trainer = stage.system()
    pid, plugins = stage.broker_pid(), stage.plugins()
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    opened = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (opened + stage.chance.randrange(3), before[1]))
    with ExitStack() as ending:
        for place in ports(stage):
            for _ in range(20):
                ending.enter_context(socket.create_connection(place, 10))
        plugin = stage.chance.choice(("alpha", "beta"))
        stage.strike(plugins[plugin].pid)
        stage.moment(trainer)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    stage.mended()
    stage.recovered()
    assert stage.broker_pid() == pid, "the broker died"


@row(
    "files-trainer",
    "the trainer begins without a file descriptor to spare",
    "D1 D3",
    gaps=True,
    note="without a spool the memory ring may overflow; a gap event says so",
)
def files_trainer(stage: Stage) -> None:
    """It gets some later, as when another part of the training closes its files."""
    stage.up("alpha", "beta", bus=BUS)
    trainer = stage.train("--files", str(stage.chance.randrange(6)))
    stage.moment(trainer)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.prlimit(trainer.process.pid, resource.RLIMIT_NOFILE, (min(hard, 1024), hard))
    stage.mended()
    stage.recovered()
    stage.moment(trainer)
