"""A client written from docs/protocol.md alone, with pyzmq and msgpack: nothing of trainbus is imported.

foreign_client.py HOME publish RUN STEPS    publishes steps, obeys commands, ends the run when it is told to stop
foreign_client.py HOME read RUN             prints offset and body of every event of the run as JSON lines, until the run has ended
"""

import json
import os
import sys
import time
import uuid
from pathlib import Path

import msgpack
import zmq

BATCH = 100
WINDOW = 400
PATIENCE = 60.0
RESEND = 1.0


class Connection:
    """The two sockets."""

    def __init__(self, home):
        bus = json.loads((Path(home) / "bus.json").read_text())
        context = zmq.Context.instance()
        self.router, self.xpub = context.socket(zmq.DEALER), context.socket(zmq.SUB)
        for socket, address in ((self.router, bus["router"]), (self.xpub, bus["xpub"])):
            socket.linger = 0
            if bus.get("server_key"):
                keys = json.loads((Path(home) / "keys" / "local.json").read_text())
                socket.curve_serverkey = bus["server_key"].encode()
                socket.curve_publickey, socket.curve_secretkey = keys["public_key"].encode(), keys["secret_key"].encode()
            socket.connect(address)
        self.calls = 0

    def send(self, kind, **fields):
        self.router.send(msgpack.packb({"type": kind, **fields}))

    def receive(self, seconds):
        """The next message, or None."""
        if not self.router.poll(int(seconds * 1000)):
            return None
        return msgpack.unpackb(self.router.recv())

    def ask(self, op, **fields):
        """The result of a request."""
        self.calls += 1
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self.send("call", id=self.calls, protocol=1, request={"op": op, **fields})
            while (answer := self.receive(RESEND)) is not None:
                if answer.get("id") == self.calls:
                    assert answer["type"] == "reply", answer
                    return answer["result"]
        raise TimeoutError(op)


class Publisher:
    """One source: numbered events, kept until they are acknowledged."""

    def __init__(self, connection, run):
        self.connection, self.run = connection, run
        self.source = uuid.uuid4().hex
        self.kept = []
        self.first = 0  # the seq of kept[0]
        self.sent = 0  # the next seq to send
        self.welcome = False
        self.commands = {}
        self.heard = self.beaten = 0.0

    def publish(self, kind, **fields):
        body = {"kind": kind, "run": self.run, "source": self.source, "seq": self.first + len(self.kept), "time": time.time_ns(), **fields}
        self.kept.append(msgpack.packb(body))

    def turn(self, seconds=0.01):
        """Say what is due, and hear what comes; commands to obey."""
        now = time.monotonic()
        if not self.welcome and now - self.heard > RESEND:
            self.heard = now
            self.connection.send("hello", protocol=1, source=self.source, run=self.run, name="foreign", pid=os.getpid(), owner=True)
        elif self.welcome and self.kept and now - self.heard > RESEND:
            self.heard, self.sent = now, self.first
        if self.welcome and now - self.beaten > 1.0:
            self.beaten = now
            self.connection.send("beat", source=self.source)
        while self.welcome and self.sent < min(self.first + len(self.kept), self.first + WINDOW):
            start = self.sent - self.first
            bodies = self.kept[start : start + BATCH]
            self.connection.send("events", source=self.source, first=self.sent, bodies=bodies)
            self.sent += len(bodies)
        orders = []
        while (message := self.connection.receive(seconds)) is not None:
            orders += self.hear(message)
            seconds = 0
        return orders

    def hear(self, message):
        self.heard = time.monotonic()
        kind = message["type"]
        if kind in ("welcome", "ack", "rewind"):
            self.welcome = True
            done = max(0, message["expected"] - self.first)
            del self.kept[:done]
            self.first += done
            self.sent = self.first if kind != "ack" else max(self.sent, self.first)
        elif kind == "failure" and message.get("code") == "hello":
            self.welcome, self.heard = False, 0.0
        elif kind == "deliver":
            command = msgpack.unpackb(message["body"])
            if command["id"] not in self.commands:
                self.commands[command["id"]] = command
                return [command]
        return []

    def flush(self):
        end = time.monotonic() + PATIENCE
        while self.kept and time.monotonic() < end:
            self.turn()
        assert not self.kept, "not acknowledged"


def publish(connection, run, steps):
    publisher = Publisher(connection, run)
    publisher.publish("run_started", name="foreign", pid=os.getpid())
    for step in range(steps):
        publisher.publish("step", step=step, metrics={"loss": float("nan") if step == 7 else 1.0 / (step + 1)})
    publisher.flush()
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        for command in publisher.turn(0.05):
            publisher.publish("command_result", command=command["id"], verb=command["verb"], state="done")
            if command["verb"] == "stop":
                publisher.publish("run_ended", outcome="stopped", reason=command.get("reason", ""))
                publisher.flush()
                connection.send("bye", source=publisher.source)
                zmq.Context.instance().destroy(linger=1000)  # let the farewell leave
                return
    raise TimeoutError("nobody told the run to stop")


def read(connection, run, losing):
    """Every event of the run once, in order: history, then live."""
    sub = connection.xpub
    sub.subscribe(b"~commit\0")
    for kind in ("run_started", "step", "command", "command_result", "run_ended"):
        sub.subscribe(f"{kind}.{run}".encode() + b"\0")
    after, ended, fanout, frames = -1, False, {}, 0

    def hand_out(events):
        nonlocal ended
        for offset, body in sorted(events):
            event = msgpack.unpackb(body)
            if event["run"] == run:
                sys.stdout.write(json.dumps([offset, event]).replace("NaN", "null") + "\n")
                ended = ended or event["kind"] == "run_ended"

    def catch_up():
        nonlocal after
        done = False
        while not done:
            page = connection.ask("history", after=after, runs=[run])
            hand_out([(offset, body) for offset, body in page["events"]])
            after, done = page["next"], page["done"]

    catch_up()
    end = time.monotonic() + PATIENCE
    while not ended and time.monotonic() < end:
        if not sub.poll(100):
            continue
        topic, _, payload = sub.recv().partition(b"\0")
        if topic != b"~commit":
            frames += 1
            if losing and frames % losing == 0:
                continue
            fanout.setdefault(topic.decode(), []).append(msgpack.unpackb(payload))
            continue
        _, previous, head, topics = msgpack.unpackb(payload)[:4]
        mine = [name for name in topics if name.partition(".")[2] == run]
        if previous <= after and all(name in fanout for name in mine):
            hand_out([(offset, body) for each in fanout.values() for frame in each for offset, body in frame[1] if offset > after])
            after = max(after, head)
        else:
            catch_up()
        fanout.clear()
    assert ended, "the run did not end"


def main():
    home, what, run, *rest = sys.argv[1:]
    connection = Connection(home)
    if what == "publish":
        publish(connection, run, int(rest[0]))
    else:
        read(connection, run, int(rest[0]) if rest else 0)
    assert not any(name.partition(".")[0] in ("trainbus", "msgspec") for name in sys.modules), "not on its own"


if __name__ == "__main__":
    main()
