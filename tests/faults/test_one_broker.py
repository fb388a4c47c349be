"""One broker for each journal, whoever starts the second one (D10)."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys

from tests.support import trainbus, wait_for
from trainbus.bus.home import read_connection


def test_d10_a_second_broker_and_a_second_up_are_refused_and_harm_nothing(storm):
    """D10: with the holder's process id, a hint, no traceback; the first one's connection file stays and events go on."""
    storm.up("alpha")
    trainer = storm.trainer()
    trainer.wait_for_returned(200)
    before = read_connection(storm.root)
    second = subprocess.run(
        [sys.executable, "-m", "trainbus.bus.broker", "--root", str(storm.root)], capture_output=True, text=True, timeout=30, check=False
    )
    assert second.returncode == 5
    assert f"process {before.pid}" in second.stderr
    assert "Traceback" not in second.stderr
    up = trainbus("up", "--detach")
    assert up.returncode == 4
    assert str(storm.process.pid) in up.stderr
    assert "trainbus down" in up.stderr
    assert read_connection(storm.root) == before
    storm.finish(trainer)
    storm.judge(at_least=200)


def test_d10_a_supervisor_whose_broker_finds_the_journal_taken_goes_on_trying_and_can_be_stopped(storm):
    """D10: somebody got the lock between a broker's death and the next start. No event is lost, and `down` does not hang."""
    storm.up("alpha")
    trainer = storm.trainer()
    trainer.wait_for_returned(200)
    os.kill(storm.broker_pid(), signal.SIGSTOP)  # so that its end and our taking the lock are one moment for everybody else
    with (storm.root / "journal.db.lock").open("r+b") as lock:
        os.kill(storm.broker_pid(), signal.SIGKILL)
        fcntl.flock(lock, fcntl.LOCK_EX)
        wait_for(lambda: storm.words().count("one broker runs for each journal") >= 2, what="two refused starts")
        trainer.wait_for_more(200)
        storm.process.send_signal(signal.SIGTERM)
        assert storm.process.wait(180) == 0
    storm.up("alpha")
    storm.finish(trainer)
    storm.judge(at_least=400)
