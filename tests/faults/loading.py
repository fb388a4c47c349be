"""A training loop with a real DataLoader whose forked workers use what they inherit: ``python -m tests.faults.loading SOURCE_FILE``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

import trainbus

EXAMPLES = 400


class Examples(torch.utils.data.Dataset):
    """Publishes from the worker as well, which nobody should do and which must do nothing."""

    def __init__(self, run: trainbus.Run) -> None:
        self.run = run
        self.parent = os.getpid()

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> tuple[int, int]:
        self.run.step(10_000 + index, loss=0.0)
        self.run.metric("from a worker", 1.0)
        assert os.getpid() != self.parent
        return index, os.getpid()


def main() -> int:
    run = trainbus.init("loading", run="loading")
    Path(sys.argv[1]).write_text(run._publisher.source)
    workers: set[int] = set()
    step = 0
    for _ in range(2):  # two epochs: workers end and others begin while the run goes on
        loader = torch.utils.data.DataLoader(Examples(run), batch_size=4, num_workers=2, multiprocessing_context="fork")
        for indices, pids in loader:
            workers |= set(pids.tolist())
            run.step(step, loss=float(indices.sum()))
            step += 1
    sys.stdout.write(f"{step} {len(workers)} {run.stats().published}\n")
    return 0 if run.close(timeout=120.0) else 3


if __name__ == "__main__":
    sys.exit(main())
