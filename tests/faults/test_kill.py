"""kill -9 of the trainer, the broker, a plugin, and all of them: what publish() returned from is in the journal once, in order."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.support import trainbus, wait_for
from trainbus.bus.drain import spools


def test_d2_d4_a_killed_trainer_leaves_everything_and_the_drain_delivers_it(storm):
    """D2, D4: with a broker. What was not acknowledged at kill -9 is in the orphaned spool, which `trainbus spool drain` sends."""
    storm.up("alpha")
    trainer = storm.trainer()
    trainer.wait_for_returned(3_000)
    trainer.kill()
    drained = trainbus("spool", "drain", "--json")
    assert drained.returncode == 0, drained.stderr
    storm.wait_for_journal(trainer)  # the supervisor may have been faster, and still be at it
    wait_for(lambda: all(spool.held for spool in spools(storm.root)), what="the drained spool to be removed")
    assert storm.judge(at_least=3_000).explained == 0


def test_d2_d4_without_a_broker_the_next_up_drains_what_a_killed_trainer_left(storm):
    """D2, D4: nobody listened while the trainer lived; two trainers died, and the supervisor sends what both left."""
    for _ in range(2):
        storm.trainer(spool_segment_bytes=65_536)  # several files
    for trainer in storm.trainers:
        trainer.wait_for_returned(2_000)
        trainer.kill()
    assert sum(not spool.held for spool in spools(storm.root)) == 2
    storm.up("alpha")
    for trainer in storm.trainers:
        wait_for(lambda trainer=trainer: len(storm.seqs(trainer.board.source)) >= trainer.board.returned, what=trainer.run)
    wait_for(lambda: all(spool.held for spool in spools(storm.root)), what="the drained spools to be removed")
    assert storm.judge(at_least=4_000).explained == 0


def test_d2_d4_the_supervisor_drains_what_a_trainer_left_that_died_while_it_ran(storm):
    """D2, D4: nobody calls for it, and no other publisher comes: the end of the story is in the journal soon after the death."""
    storm.up("alpha")
    broker = storm.broker_pid()
    os.kill(broker, signal.SIGSTOP)  # so that something is left for certain
    trainer = storm.trainer()
    trainer.wait_for_returned(1_000)
    trainer.kill()
    os.kill(broker, signal.SIGCONT)
    storm.wait_for_journal(trainer)
    wait_for(lambda: all(spool.held for spool in spools(storm.root)), what="the drained spool to be removed")
    assert storm.judge(at_least=1_000).explained == 0


def test_d3_d5_d6_d8_the_broker_is_killed_three_times_under_a_flood(storm):
    """D3, D5, D6, D8: the supervisor starts it again; publisher, plugin and a live reader go on without a gap or a repeat."""
    storm.up("alpha")
    follower = storm.follower()
    trainer = storm.trainer("--burst", "50", "--pace", "0.01")
    for _ in range(3):
        broker = storm.broker_pid()
        before = len(follower.seen)
        trainer.wait_for_more(500)
        wait_for(lambda before=before: follower.error or len(follower.seen) > before, what="the reader to get on")
        os.kill(broker, signal.SIGSTOP)
        trainer.wait_for_more(500)  # some of these are on their way when it dies, and must be sent again
        os.kill(broker, signal.SIGKILL)
        wait_for(lambda broker=broker: storm.broker_pid() != broker, what="another broker")
        trainer.wait_for_more(100)
    storm.finish(trainer)
    findings = storm.judge(at_least=1_500)
    assert findings.explained == 0


def test_d6_a_plugin_is_killed_under_a_flood_and_its_neighbour_notices_nothing(storm):
    """D6: at least once for the killed one, in order, nothing left out; the other one gets each event exactly once."""
    storm.up("alpha", "beta")
    trainer = storm.trainer()
    neighbour = storm.wait_for_state("beta", "running").pid
    for _ in range(2):
        pid = storm.wait_for_state("alpha", "running").pid
        before = len(storm.recorded("alpha"))
        trainer.wait_for_more(200)
        wait_for(lambda before=before: len(storm.recorded("alpha")) > before + 100, what="alpha to get on")
        os.kill(pid, signal.SIGKILL)
        storm.wait_for_state("alpha", "running", not_pid=pid)
    storm.finish(trainer)
    assert storm.judge(at_least=400).explained == 0
    assert storm.plugin("beta").pid == neighbour
    offsets = [offset for offset, _, _ in storm.recorded("beta")]
    assert len(offsets) == len(set(offsets))


@pytest.mark.timeout(180)
def test_d2_d3_d4_d6_everything_is_killed_at_once_and_up_again_loses_nothing(storm, tmp_path):
    """D2, D3, D4, D6: trainers, broker, plugins and supervisor in one stroke; afterwards every run exports whole."""
    storm.up("alpha", "beta")
    for _ in range(2):
        storm.trainer()
    for trainer in storm.trainers:
        trainer.wait_for_returned(1_500)
    storm.kill_everything()
    storm.up("alpha", "beta")
    for trainer in storm.trainers:
        wait_for(lambda trainer=trainer: len(storm.seqs(trainer.board.source)) >= trainer.board.returned, what=trainer.run)
    assert storm.judge(at_least=3_000).explained == 0
    for trainer in storm.trainers:
        file = tmp_path / f"{trainer.run}.jsonl"
        exported = trainbus("runs", "export", trainer.run, "--output", str(file))
        assert exported.returncode == 0, exported.stderr
        own = [line for line in map(json.loads, file.read_text().splitlines()) if line["source"] == trainer.board.source]
        assert [line["seq"] for line in own] == list(range(len(own)))
        assert len(own) in (trainer.board.returned, trainer.board.returned + 1)
