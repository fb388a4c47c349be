"""A run whose workers come by fork, spawn or forkserver: ``python -m tests.faults.workers METHOD FILE``.

Forked workers use the run that they inherit, which must do nothing. The others can't inherit it and make publishers of their own. Every
process of those writes ``SOURCE COUNT`` into the file, the run itself too.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys

import trainbus
from trainbus.bus.events import Metric

WORKERS, EVENTS, STEPS = 3, 100, 300
run: trainbus.Run | None = None


def write(file: str, source: str, count: int) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{source} {count}\n".encode())
    os.close(descriptor)


def work(method: str, file: str) -> None:
    if method == "fork":
        assert run is not None
        for number in range(EVENTS):
            run.metric("from a worker", number)
        return
    publisher = trainbus.Publisher("workers")
    for number in range(EVENTS):
        publisher.publish(Metric(name="from a worker", value=number))
    assert publisher.close(timeout=120.0)
    write(file, publisher.source, EVENTS)


def main() -> int:
    global run
    method, file = sys.argv[1:]
    logging.basicConfig(stream=sys.stderr)
    run = trainbus.init("workers", run="workers")
    context = multiprocessing.get_context(method)
    workers = []
    for step in range(STEPS):
        run.step(step, loss=1.0)
        if step % (STEPS // WORKERS) == 0:
            workers.append(context.Process(target=work, args=(method, file)))
            workers[-1].start()
    for worker in workers:
        worker.join()
    published = run.stats().published
    settled = run.close(timeout=120.0)
    write(file, run._publisher.source, published + 1)  # run_ended comes last
    return 0 if settled and all(worker.exitcode == 0 for worker in workers) else 3


if __name__ == "__main__":
    sys.exit(main())
