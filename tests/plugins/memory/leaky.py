"""A training-like process with a planted leak: ``python leaky.py RUN MB_A_STEP SECONDS_A_STEP SEED LIMIT OUT``.

LIMIT is the directory of a control group to enter, ``rlimit:BYTES``, or ``none``. It publishes steps, obeys save and free_caches, and ends
when it is killed, refused memory, or after 400 steps.
"""

import gc
import os
import random
import resource
import sys
import time
from pathlib import Path

import trainbus

STEPS = 400


def save(run, step, out):
    """Half a second of writing, under another name until it is whole."""
    whole, part = out / f"checkpoint-{step}", out / f"part-{step}"
    run.checkpoint(whole, step=step, state="writing")
    part.mkdir(parents=True)
    for number in range(5):
        (part / f"shard-{number}").write_bytes(os.urandom(1 << 20))
        time.sleep(0.1)
    (part / "complete").write_text("yes")
    part.rename(whole)
    run.checkpoint(whole, step=step)


def main():
    """Train."""
    name, leak, seconds, seed, limit, out = sys.argv[1:]
    if limit.startswith("rlimit:"):
        resource.setrlimit(resource.RLIMIT_AS, (int(limit.partition(":")[2]),) * 2)
    elif limit != "none":
        (Path(limit) / "cgroup.procs").write_text(str(os.getpid()))
    chance, kept = random.Random(int(seed)), []
    with trainbus.init("leaky", run=name) as run, run.phase("train"):
        for step in range(1, STEPS + 1):
            time.sleep(float(seconds) * chance.uniform(0.8, 1.2))
            buffer = bytearray(os.urandom(1 << 20) * chance.randrange(1, 6))  # what a step needs and gives back
            kept.append(bytearray(b"x") * int(float(leak) * 1e6))
            run.step(step, total_steps=STEPS, loss=1.0 / step + len(buffer) * 0)
            del buffer
            for command in run.commands():
                if command.verb == "save":
                    save(run, step, Path(out))
                elif command.verb == "free_caches":
                    gc.collect()
                run.result(command)


if __name__ == "__main__":
    main()
