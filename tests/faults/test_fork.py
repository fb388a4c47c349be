"""Workers that a torch DataLoader forks while a run publishes (D9)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from trainbus.testing.checker import HistoryChecker

EPOCHS, BATCHES = 2, 100


def test_d9_forked_dataloader_workers_neither_publish_nor_disturb(storm):
    """D9: in every worker the inherited run is a no-op that warns once; the parent's events are all there, once, in order."""
    pytest.importorskip("torch")
    storm.up()
    file = storm.folder / "source"
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.loading", str(file)], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    steps, workers, published = map(int, done.stdout.split())
    assert (steps, workers) == (EPOCHS * BATCHES, 4)
    assert done.stderr.count("forked process") == workers, done.stderr
    checker = HistoryChecker()
    checker.published(file.read_text(), published + 1)  # run_ended comes last
    checker.journal(storm.records())
    findings = checker.check()
    assert findings.ok, findings.explain()
    assert [event.step for event in storm.events("step")] == list(range(steps))
    assert {event.source for event in storm.events("step", "metric", "run_ended")} == {file.read_text()}
