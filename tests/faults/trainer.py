"""A training process: ``python -m tests.faults.trainer BOARD RUN ...``. Publishes steps until it is told to stop, and times each call.

With ``--control`` it does the same work without publishing: what a call then takes is the machine's doing.
"""

from __future__ import annotations

import argparse
import mmap
import resource
import shutil
import sys
import time
from pathlib import Path

import msgspec

import trainbus
from tests.faults.board import RETURNED, SETTLED, STOP, Board
from trainbus.bus.config import BusConfig
from trainbus.bus.events import Step, encode

CHECKPOINT_EVERY, CHECKPOINT_BYTES = 100, 2 * 1024 * 1024
CONTROL_BYTES = 1024 * 1024


class Control:
    """Encodes each event and copies it into mapped memory: a call's work, without locks, threads or anybody to talk to."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, CONTROL_BYTES)
        self._at = 0

    def step(self, step: int, **metrics: float) -> None:
        body = encode(Step(run="control", source="control", seq=step, time=time.time_ns(), step=step, metrics=metrics))
        if self._at + len(body) > CONTROL_BYTES:
            self._at = 0
        self._memory[self._at : self._at + len(body)] = body
        self._at += len(body)

    def close(self, timeout: float) -> bool:
        return True


def save(folder: Path, step: int) -> Path | None:
    """A checkpoint of some megabytes, whole or not there: None when the disk is full, as a trainer that catches that does."""
    draft, final = folder / f".checkpoint-{step}", folder / f"checkpoint-{step}"
    try:
        draft.mkdir()
        (draft / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}" + bytes(CHECKPOINT_BYTES))
        (draft / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        return None
    return draft.rename(final)


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
    parser.add_argument("--files", type=int, help="begin with the right to open this many further files, threads' pipes included")
    parser.add_argument("--checkpoints", type=Path, help="save checkpoints here")
    parser.add_argument("--control", action="store_true", help="publish nothing")
    given = parser.parse_args()
    board = Board(given.board)
    numbers = board.numbers
    if given.full_disk:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    begin = trainbus.init  # loaded here, as at the top of a program: an import needs files
    if given.files is not None:
        opened = len(list(Path("/proc/self/fd").iterdir())) - 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (opened + given.files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    settings = msgspec.json.decode(given.settings, type=BusConfig)
    if given.control:
        run = Control()
    else:
        run = begin("storm", run=given.run, root=given.root, router=given.router, settings=settings, resume=given.resume)
        board.source = run._publisher.source
    numbers[RETURNED] = 1  # run_started
    step = 0
    while not numbers[STOP]:
        for _ in range(given.burst):
            used = resource.getrusage(resource.RUSAGE_THREAD)
            before = time.perf_counter_ns()
            run.step(step, loss=1.0 / (step + 1), learning_rate=1e-4)
            took = time.perf_counter_ns() - before
            numbers[RETURNED] += 1
            board.add_call(took, used, resource.getrusage(resource.RUSAGE_THREAD))
            step += 1
            if given.checkpoints and step % CHECKPOINT_EVERY == 0 and (path := save(given.checkpoints, step)) is not None:
                run.checkpoint(path, step=step)
                numbers[RETURNED] += 1
        time.sleep(given.pace)
    settled = run.close(timeout=120.0)
    numbers[RETURNED] += 1  # run_ended
    numbers[SETTLED] = settled
    return 0 if settled else 3


if __name__ == "__main__":
    sys.exit(main())
