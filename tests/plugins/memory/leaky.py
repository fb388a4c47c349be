"""A training-like process with a planted leak: ``python leaky.py RUN MB_A_STEP SECONDS_A_STEP SEED LIMIT OUT``.

LIMIT is the directory of a control group to enter, or ``rlimit:BYTES`` more address space than it begins with. It publishes steps, obeys
save and free_caches, and ends when it is killed, refused memory, or after 400 steps. Without a leak it evaluates and saves now and then.
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


def evaluate(run, step):
    """Half a second with four times the memory of a step."""
    with run.phase("evaluate"):
        outputs = [bytearray(b"x") * (8 << 20) for _ in range(8) if time.sleep(0.06) is None]
    run.eval(step, loss=float(len(outputs)))


def limit_address_space(more):
    """More than now, because threads reserve far more than they use."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    resource.setrlimit(resource.RLIMIT_AS, (int(fields["VmSize"].split()[0]) * 1024 + more,) * 2)


def main():
    """Train."""
    name, leak, seconds, seed, limit, out = sys.argv[1:]
    if not limit.startswith("rlimit:"):
        (Path(limit) / "cgroup.procs").write_text(str(os.getpid()))
    chance, kept = random.Random(int(seed)), []
    with trainbus.init("leaky", run=name) as run, run.phase("train"):
        if limit.startswith("rlimit:"):
            limit_address_space(int(limit.partition(":")[2]))
        for step in range(1, STEPS + 1):
            time.sleep(float(seconds) * chance.uniform(0.8, 1.2))
            buffer = bytearray(os.urandom(1 << 20) * chance.randrange(1, 6))  # what a step needs and gives back
            kept.append(bytearray(b"x") * int(float(leak) * 1e6))
            run.step(step, total_steps=STEPS, loss=1.0 / step + len(buffer) * 0)
            del buffer
            if leak == "0" and step % 50 == 0:
                evaluate(run, step)
            if leak == "0" and step % 100 == 0:
                save(run, step, Path(out))
            for command in run.commands():
                if command.verb == "save":
                    save(run, step, Path(out))
                elif command.verb == "free_caches":
                    gc.collect()
                run.result(command)


if __name__ == "__main__":
    main()
