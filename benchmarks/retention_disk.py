"""What deleting a 1 GB checkpoint costs a training on the same disk: the limit is 2 % of its step time.

A training process computes for about 27 ms a step, writes a line of its log, and saves 16 MB to the disk every 20 steps. Each round
writes a checkpoint, lets the disk settle, and then runs three blocks: quiet, with a deletion (into the trash, then emptied, as the plugin
does it), quiet. The deletion is compared with the quiet blocks around it, so that a drift of the machine falls on both; the two quiet
ones, compared with each other, tell what the machine does by itself. The verdict is that of the 95 % interval of the median over all
rounds: below the limit it holds, above it is broken. Across it the machine was too busy to tell; and so it was when a deletion seems to
make steps faster by as much, which it can't.
With --realtime (root) the training has precedence over everything else on its core: what remains is what the deletion does to it.

Run: python benchmarks/retention_disk.py [--rounds 14] [--gigabytes 1] [--directory DIR] [--realtime] [--json]
Takes about two and a half minutes; on a machine that others use, 60 rounds tell what 14 can't. Exit code 1: the limit is broken.
"""

import argparse
import json
import logging
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from trainbus.plugins.retention.records import Record
from trainbus.plugins.retention.sweeper import Sweeper
from trainbus.plugins.retention.trash import Trash

LIMIT = 0.02
BLOCK_STEPS = 160
"""As long as the deletion of a gigabyte takes at the default rate."""
QUIET_STEPS = 80
SETTLE_STEPS = 40
MIN_ROUNDS = 6
"""Fewer have no 95 % interval of the median."""
SAVE_EVERY = 20
RATE = 256e6
"""The default of trash_bytes_per_second."""
SAVE_BYTES = 16 * 1024 * 1024

TRAINING = """
import os, sys, time
out, save_every, save_bytes = sys.argv[1], *map(int, sys.argv[2:4])
content = os.urandom(1 << 20)

def compute(n):
    total = 0
    for number in range(n):
        total += number * number
    return total

log = open(os.path.join(out, "log.jsonl"), "a")
rounds = 0
for line in sys.stdin:
    if not rounds:
        began = time.perf_counter()
        compute(1_000_000)
        rounds = int(1_000_000 * 0.027 / (time.perf_counter() - began))
    times = []
    for step in range(int(line)):
        began = time.perf_counter()
        compute(rounds)
        log.write('{"step": 1, "loss": 2.0}\\n'); log.flush()
        if step % save_every == save_every - 1:
            with open(os.path.join(out, "saved"), "wb") as file:
                for _ in range(save_bytes >> 20):
                    file.write(content)
                file.flush(); os.fsync(file.fileno())
        times.append(time.perf_counter() - began)
    print(sum(times) / len(times), flush=True)
"""


def checkpoint(out, gigabytes):
    """A checkpoint of that size, on the disk."""
    path = out / "checkpoint-1"
    path.mkdir()
    (path / "trainer_state.json").write_text("{}")
    with (path / "model.safetensors").open("wb") as file:
        block = os.urandom(1 << 20)
        for _ in range(gigabytes * 1000):
            file.write(block)
        os.fsync(file.fileno())
    return Record("r@1", "r", 1, 1, str(path), gigabytes * 1000 << 20)


def interval(changes):
    """The 95 % interval of the median, by order statistics: nothing is assumed of how the noise is distributed."""
    count, below, tail = len(changes), 0, 0.5 ** len(changes)
    while tail <= 0.025:
        below += 1
        tail += math.comb(count, below) * 0.5**count
    ordered = sorted(changes)
    return ordered[max(below - 1, 0)], ordered[count - max(below, 1)]


def measure(arguments, folder):
    """Changes of the mean step by a deletion, and between two quiet blocks, over all rounds; the mean quiet step in seconds."""
    out = Path(folder)
    command = [sys.executable, "-c", TRAINING, folder, *map(str, (SAVE_EVERY, SAVE_BYTES))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as training:
        if arguments.realtime:
            os.sched_setscheduler(training.pid, os.SCHED_FIFO, os.sched_param(1))
            os.sched_setaffinity(training.pid, {0})

        def block(steps, action=None):
            training.stdin.write(f"{steps}\n")
            training.stdin.flush()
            if action:
                action()
            return float(training.stdout.readline())

        trash = Trash(out, who="benchmark")
        changes, noise, quiet = [], [], []
        for _ in range(arguments.rounds):
            record = checkpoint(out, arguments.gigabytes)
            os.sync()
            block(SETTLE_STEPS)
            sweeper = Sweeper(RATE, logging.getLogger("benchmark"))
            sweeper.start()
            before = block(QUIET_STEPS)
            busy = block(BLOCK_STEPS, lambda: sweeper.add(trash, trash.put(record, reason="benchmark")))  # noqa: B023 - called at once
            sweeper.close(30)
            after = block(QUIET_STEPS)
            changes.append(busy / ((before + after) / 2) - 1)
            noise.append(after / before - 1)
            quiet += [before, after]
        training.stdin.close()
    return changes, noise, statistics.median(quiet)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=14)
    parser.add_argument("--gigabytes", type=int, default=1)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--realtime", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
        changes, noise, quiet = measure(arguments, folder)
    low, high = interval(changes)
    verdict = "can't be judged, the machine is too busy"
    if arguments.rounds >= MIN_ROUNDS:
        verdict = "holds" if low >= -LIMIT and high <= LIMIT else "is broken" if low > LIMIT else verdict
    row = {
        "rounds": arguments.rounds,
        "step_ms": round(quiet * 1e3, 1),
        "change": statistics.median(changes),
        "interval": [low, high],
        "noise": [min(noise), max(noise)],
        "limit": LIMIT,
        "verdict": verdict,
    }
    if arguments.json:
        print(json.dumps(row))
    else:
        print(
            f"deleting {arguments.gigabytes} GB changes the mean step of {row['step_ms']} ms by {row['change']:+.2%} "
            f"(95 % interval {low:+.2%} to {high:+.2%}, {arguments.rounds} rounds)"
        )
        print(f"two quiet blocks differ by {min(noise):+.1%} to {max(noise):+.1%}")
        print(f"limit {LIMIT:+.0%}: {verdict}")
    return int(verdict == "is broken")


if __name__ == "__main__":
    sys.exit(main())
