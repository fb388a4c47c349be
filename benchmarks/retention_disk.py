"""What deleting a 1 GB checkpoint costs a training on the same disk: the limit is 2 % of its step time.

A training process computes for about 27 ms a step, writes a line of its log, and saves 16 MB to the disk every 20 steps. Blocks with
and without a deletion (into the trash, then emptied, as the plugin does it) take turns, so that what else the machine does falls on both.
With --realtime (root) the training has precedence over everything else on its core: what remains is what the deletion does to it.

Run: python benchmarks/retention_disk.py [--pairs 10] [--gigabytes 1] [--directory DIR] [--json]
"""

import argparse
import json
import logging
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
SAVE_EVERY = 20
SAVE_BYTES = 16 * 1024 * 1024

TRAINING = """
import os, sys, time
out, steps, save_every, save_bytes = sys.argv[1], *map(int, sys.argv[2:5])
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
    for step in range(steps):
        began = time.perf_counter()
        compute(rounds)
        log.write('{"step": 1, "loss": 2.0}\\n'); log.flush()
        if step % save_every == save_every - 1:
            with open(os.path.join(out, "saved"), "wb") as file:
                for _ in range(save_bytes >> 20):
                    file.write(content)
                file.flush(); os.fsync(file.fileno())
        times.append(time.perf_counter() - began)
    print(sum(times) / len(times), sorted(times)[len(times) // 2], flush=True)
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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--gigabytes", type=int, default=1)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--realtime", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
        out = Path(folder)
        command = [sys.executable, "-c", TRAINING, folder, *map(str, (BLOCK_STEPS, SAVE_EVERY, SAVE_BYTES))]
        training = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

        if arguments.realtime:
            os.sched_setscheduler(training.pid, os.SCHED_FIFO, os.sched_param(1))
            os.sched_setaffinity(training.pid, {0})

        def block(action=None):
            training.stdin.write("go\n")
            training.stdin.flush()
            if action:
                action()
            return [float(figure) for figure in training.stdout.readline().split()]

        trash = Trash(out, who="benchmark")
        block()
        means, medians = [], []
        for number in range(arguments.pairs):
            record = checkpoint(out, arguments.gigabytes)
            sweeper = Sweeper(256e6, logging.getLogger("benchmark"))
            sweeper.start()

            def delete(record=record, sweeper=sweeper):
                sweeper.add(trash, trash.put(record, reason="benchmark"))

            first, second = (block(delete), block()) if number % 2 else (block(), block(delete))
            quiet, busy = (second, first) if number % 2 else (first, second)
            means.append(busy[0] / quiet[0] - 1)
            medians.append(busy[1] / quiet[1] - 1)
            sweeper.close(10)
        training.stdin.close()
        training.wait(10)
    row = {
        "pairs": arguments.pairs,
        "step_ms": round(quiet[1] * 1e3, 1),
        "mean_change": statistics.median(means),
        "median_step_change": statistics.median(medians),
        "spread": [min(means), max(means)],
        "limit": LIMIT,
    }
    if arguments.json:
        print(json.dumps(row))
        return
    low, high = row["spread"]
    print(f"deleting {arguments.gigabytes} GB changes the mean step time by {row['mean_change']:+.2%} ({low:+.1%} to {high:+.1%})")
    print(
        f"and the median step by {row['median_step_change']:+.2%}, over {row['pairs']} pairs of {BLOCK_STEPS} steps of {row['step_ms']} ms"
    )
    print(f"limit {LIMIT:+.0%}")


if __name__ == "__main__":
    main()
