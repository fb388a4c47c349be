"""Makes spools and kills itself: ``python -m tests.faults.orphans ROOT COUNT``. Each holds `EVENTS` events that nobody has acknowledged."""

from __future__ import annotations

import os
import signal
import struct
import sys
import time
from pathlib import Path

from trainbus.bus.events import Step, encode
from trainbus.bus.outbox import Outbox
from trainbus.bus.spool import Identity, Spool, spool_root

EVENTS = 4
SEGMENT_BYTES = 65_536
_PUBLISHED_AT = 16
"""Where `spool.py` keeps the count of published events in the file ``meta``."""


def source_of(number: int) -> str:
    return f"torn-{number:03}"


def body(source: str, seq: int) -> bytes:
    """An event as a publisher makes it; of every source equally long."""
    return encode(Step(run="torn", source=source, seq=seq, time=1_700_000_000_000_000_000 + seq, step=seq, metrics={"loss": 0.5 + seq}))


def segment_of(root: Path, number: int) -> Path:
    """The file that holds an orphan's events."""
    [file] = [
        path for path in sorted((spool_root(root) / source_of(number)).glob("*.seg")) if body(source_of(number), 0) in path.read_bytes()
    ]
    return file


def set_published(spool: Path, count: int) -> None:
    """As kill -9 leaves it in the middle of publish(): the last event does not count yet."""
    with (spool / "meta").open("r+b") as file:
        file.seek(_PUBLISHED_AT)
        assert struct.unpack("=Q", file.read(8)) == (EVENTS,)
        file.seek(_PUBLISHED_AT)
        file.write(struct.pack("=Q", count))


def main() -> None:
    root, count = Path(sys.argv[1]), int(sys.argv[2])
    held = []
    for number in range(count):
        source = source_of(number)
        identity = Identity(source=source, run="torn", created=time.time_ns(), pid=os.getpid())
        outbox = Outbox(Spool(root, identity, segment_bytes=SEGMENT_BYTES, total_bytes=4 * SEGMENT_BYTES), memory_events=EVENTS)
        outbox.prepare(time.monotonic())
        for seq in range(EVENTS):
            outbox.append(seq, body(source, seq))
        held.append(outbox)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
