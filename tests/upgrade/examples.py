"""A home as this version leaves it: journal, an orphaned spool, connection file, configuration, a plugin's state.

Also the script that stores it:  python -m tests.upgrade.examples

It is stored once for each format (`schema.SCHEMA`) and never overwritten: what a released version has written must open in every later one.
"""

from __future__ import annotations

import io
import sys
import tarfile
import tempfile
from pathlib import Path

import msgspec

from tests.broker.broker_bench import Bench, body
from trainbus.bus import events, wire
from trainbus.bus.broker import schema
from trainbus.bus.home import Connection, write_connection
from trainbus.bus.outbox import Outbox
from trainbus.bus.spool import Identity, Spool
from trainbus.cli.init import PLUGINS

DATA = Path(__file__).parent.parent / "data"
STEPS, SPOOLED = 20, 5


def stored(version: int = schema.SCHEMA) -> Path:
    """The archive of a format."""
    return DATA / f"home-{version}.tar.gz"


def make(root: Path) -> None:
    """Write a home: a run of 20 steps, half of which a plugin has read, and a second one whose five events nobody has sent."""
    root.mkdir(parents=True)
    bench = Bench(root / "journal.db")
    bench.hello("s", owner=True)
    bench.publish("s", *(body(events.Step(step=step, metrics={"loss": 1.0 / (step + 1)}), "s", step) for step in range(STEPS)))
    bench.call(wire.OpenCursor(consumer="plugin:anomaly"))
    bench.call(wire.CommitCursor(consumer="plugin:anomaly", offset=9, state={"seen": msgspec.msgpack.encode({"steps": 10})}))
    bench.call(wire.TakeLease(resource="/checkpoints/7", holder="me", mode="shared", ttl=3600.0))
    bench.call(wire.SendCommand(run="r", verb="save"))
    bench.call(wire.AddDeadLetter(consumer="plugin:anomaly", offset=3, attempts=3, reason="died on it"))
    bench.close()
    (root / "journal.db.lock").unlink()
    outbox = Outbox(Spool(root, Identity(source="left", run="orphan"), segment_bytes=1 << 16, total_bytes=1 << 17), memory_events=10)
    outbox.prepare(0.0)
    for step in range(SPOOLED):
        outbox.append(step, body(events.Step(step=step), "left", step, run="orphan"))
    outbox.close()
    write_connection(Connection(router="tcp://127.0.0.1:1", xpub="tcp://127.0.0.1:2", journal="gone", pid=1), root)
    names = ", ".join(f'"{name}"' for name in PLUGINS[:4])
    (root / "trainbus.toml").write_text(f"plugins = [{names}]\n\n[bus]\nlost_after = 30\n\n[plugin.retention]\nkeep_newest = 3\n")


def main() -> int:
    """Store what is not stored yet."""
    archive = stored()
    if archive.exists():
        print(f"{archive} is there; a released format is never overwritten", file=sys.stderr)  # noqa: T201
        return 1
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / "home")
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w:gz") as tar:
            tar.add(Path(folder) / "home", arcname="home")
        archive.write_bytes(content.getvalue())
    return 0


if __name__ == "__main__":
    sys.exit(main())
