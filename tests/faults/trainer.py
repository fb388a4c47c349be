"""A training process: ``python -m tests.faults.trainer BOARD RUN ...``. Publishes steps until it is told to stop, and times each call."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import msgspec

import trainbus
from tests.faults.board import LONGEST, RETURNED, SETTLED, STOP, Board
from trainbus.bus.config import BusConfig


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("board", type=Path)
    parser.add_argument("run")
    parser.add_argument("--settings", default="{}")
    parser.add_argument("--root")
    parser.add_argument("--router")
    parser.add_argument("--pace", type=float, default=0.005, help="seconds of 'computing' between bursts")
    parser.add_argument("--burst", type=int, default=10)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--full-disk", action="store_true", help="begin without the right to write to any file")
    given = parser.parse_args()
    board = Board(given.board)
    numbers = board.numbers
    if given.full_disk:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    settings = msgspec.json.decode(given.settings, type=BusConfig)
    run = trainbus.init("storm", run=given.run, root=given.root, router=given.router, settings=settings, resume=given.resume)
    numbers[RETURNED] = 1  # run_started
    board.source = run._publisher.source
    step = 0
    while not numbers[STOP]:
        for _ in range(given.burst):
            before = time.perf_counter_ns()
            run.step(step, loss=1.0 / (step + 1), learning_rate=1e-4)
            took = time.perf_counter_ns() - before
            numbers[RETURNED] += 1
            numbers[LONGEST] = max(took, numbers[LONGEST])
            step += 1
        time.sleep(given.pace)
    settled = run.close(timeout=30.0)
    numbers[RETURNED] += 1  # run_ended
    numbers[SETTLED] = settled
    return 0 if settled else 3


if __name__ == "__main__":
    sys.exit(main())
