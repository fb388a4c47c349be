"""Rows: the wall clock of all processes jumps."""

from __future__ import annotations

import mmap
import os
import struct

from tests.faults.matrix.row import row
from tests.faults.matrix.stage import Stage

DAY = 86_400 * 10**9

CLOCK = '''
"""Loaded by every Python process at its start: the wall clock with an offset that the test moves. Monotonic time is left alone."""
import mmap, os, struct, time
if name := os.environ.get("FAULT_CLOCK"):
    with open(name, "r+b") as file:
        _offset = memoryview(mmap.mmap(file.fileno(), 8)).cast("q")
    _time, _time_ns = time.time, time.time_ns
    time.time = lambda: _time() + _offset[0] / 1e9
    time.time_ns = lambda: _time_ns() + _offset[0]
'''


class WallClock:
    """The clock of all processes that this one starts from now on."""

    def __init__(self, stage: Stage) -> None:
        path = stage.folder / "clock"
        path.write_bytes(struct.pack("=q", 0))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8)
        (stage.site.directory / "sitecustomize.py").write_text(CLOCK)
        os.environ["FAULT_CLOCK"] = str(path)

    def jump(self, nanoseconds: int) -> None:
        """Forward or backward."""
        self._map[:] = struct.pack("=q", struct.unpack("=q", self._map[:])[0] + nanoseconds)


def jump(stage: Stage, days: tuple[int, ...]) -> None:
    """Nobody is lost, no lease or cursor goes wrong, order is by offset and not by time; the broker restarts between two jumps."""
    clock = WallClock(stage)
    trainer = stage.system(bus={"lost_after": 5.0})
    for day in days:
        clock.jump(day * DAY)
        stage.moment(trainer)
        if stage.chance.random() < 0.5:
            before = stage.broker_pid()
            stage.strike(before)
            stage.new_broker(before)
    stage.mended()
    stage.recovered()
    stamps = [event.time for event in stage.events("step")]
    assert max(stamps) - min(stamps) > DAY // 2, "the clock did not jump"
    assert not [event for event in stage.events("run_ended") if event.outcome == "lost"]


@row("clock-forward", "the clock jumps a day forward, twice", "D3 D5 D7")
def forward(stage: Stage) -> None:
    jump(stage, (1, 1))


@row("clock-back", "the clock jumps a day back, twice", "D3 D5 D7")
def back(stage: Stage) -> None:
    jump(stage, (-1, -1))


@row("clock-both", "the clock jumps forward and back", "D3 D5 D7")
def both(stage: Stage) -> None:
    jump(stage, (1, -2, 1))
