"""Programs of two users of one machine. Each imports all that it needs, then gives up root: a user may not be able to read Python itself.

``python -m tests.security.users host UID FOLDER`` runs a bus and a training in ``FOLDER``, and makes tokens.
``python -m tests.security.users guest UID FOLDER`` tries what it can, without rights and with a token. Both talk in JSON lines.
"""

from __future__ import annotations

import ctypes  # noqa: F401 - imported, as what follows, before the right to read Python is gone
import json
import os
import sys
import threading
from pathlib import Path

import trainbus
from trainbus.bus import drain, publisher, run, spool  # noqa: F401
from trainbus.bus.broker import journal, keystore, maintenance, replay  # noqa: F401
from trainbus.bus.broker.loop import run_broker
from trainbus.bus.client import Client
from trainbus.bus.config import BusConfig
from trainbus.bus.home import read_connection
from trainbus.bus.subscriber import Subscriber
from trainbus.errors import TrainbusError


def become(uid: int) -> None:
    """Another user, with the most careless umask there is."""
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    os.umask(0)


def say(**words: object) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def host(home: Path) -> None:
    """Serve until standard input ends."""
    os.environ["TRAINBUS_HOME"] = str(home)
    ready, stop = threading.Event(), threading.Event()
    options = {"ready": lambda _: ready.set(), "stop": stop}
    broker = threading.Thread(target=run_broker, args=(BusConfig(heartbeat_interval=0.1), home), kwargs=options, daemon=True)
    broker.start()
    assert ready.wait(60)
    training = trainbus.init("mine", run="mine-1")
    training.step(1, loss=1.0)
    assert training.flush(60)
    say(router=read_connection(home).router, xpub=read_connection(home).xpub)
    for line in sys.stdin:
        if line.strip() == "invite":
            credentials = {role: keystore.invite(home, role, role, "127.0.0.1")[0].token() for role in ("observer", "publisher")}
            with Client(root=home) as client:
                while (keys := client.status().keys) is None or keys.clients < 3:
                    pass
            say(**credentials)
    training.close()
    stop.set()
    broker.join()


def guest(folder: Path) -> None:
    """Do what each line asks for, and say how it went."""
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            say(result=DEEDS[asked.pop("deed")](**asked))
        except (OSError, TrainbusError) as error:
            say(error=type(error).__name__, code=getattr(error, "facts", {}).get("code", ""))


def read(path: str) -> int:
    return len(list(Path(path).iterdir()) if Path(path).is_dir() else Path(path).read_bytes())


def command_lines(user: int) -> str:
    """All that `ps` shows of another user's processes, and what it can't: their environments."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == user:
                found.append((process / "cmdline").read_bytes().decode(errors="replace"))
                found.append((process / "environ").read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(found)


def status(router: str, token: str = "") -> int:
    with connected(token, router) as client:
        return client.status().head


def publish(home: str, token: str) -> bool:
    os.environ.update(TRAINBUS_HOME=home, TRAINBUS_TOKEN=token)
    with trainbus.init("theirs", run="theirs-1") as training:
        training.step(1, loss=2.0)
        return training.flush(30)


def listen(home: str, token: str) -> list[str]:
    os.environ.update(TRAINBUS_HOME=home, TRAINBUS_TOKEN=token)
    with Client() as client, Subscriber(kinds=("step",), start="beginning") as steps:
        client.status()
        return [next(steps).run]


def connected(token: str, router: str) -> Client:
    os.environ.update(TRAINBUS_TOKEN=token)
    return Client(None if token else router, timeout=5.0)


DEEDS = {"read": read, "command_lines": command_lines, "status": status, "publish": publish, "listen": listen}


if __name__ == "__main__":
    role, uid, place = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    become(uid)
    (host if role == "host" else guest)(place)
