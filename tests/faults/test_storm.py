"""Everything at once, over and over: two minutes of faults by a seeded hand, then the books are balanced."""

from __future__ import annotations

import csv
import json
import os
import random
import signal

import pytest

from tests.faults.storm import Storm, Trainer
from tests.support import trainbus, wait_for
from trainbus.bus.client import Client

BUS = {"heartbeat_interval": 0.2, "lost_after": 3.0, "stuck_after": 5.0}


class Hand:
    """Strikes one fault after the other; each ends with the system being whole again, or with nobody to mend it until `up`."""

    def __init__(self, storm: Storm, chance: random.Random) -> None:
        self.storm = storm
        self.chance = chance
        self.done: list[str] = []

    def strike(self) -> None:
        faults = [self.broker_dies, self.broker_freezes, self.plugin_dies, self.plugin_freezes, self.trainer_dies, self.trainer_freezes]
        fault = self.chance.choice([*faults, self.trainer_ends, self.everything_dies])
        self.done.append(fault.__name__)
        fault()
        for trainer in self.alive():
            trainer.wait_for_more(self.chance.randrange(50, 500))

    def alive(self) -> list[Trainer]:
        return [trainer for trainer in self.storm.trainers if trainer.process.poll() is None]

    def broker_dies(self) -> None:
        before = self.storm.broker_pid()
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: self.storm.broker_pid() != before, what="another broker")

    def broker_freezes(self) -> None:
        pid = self.storm.broker_pid()
        os.kill(pid, signal.SIGSTOP)
        for trainer in self.alive():
            trainer.wait_for_more(1_000)
        os.kill(pid, signal.SIGCONT)

    def plugin_dies(self) -> None:
        name = self.chance.choice(list(self.storm.recorders))
        pid = self.storm.wait_for_state(name, "running").pid
        os.kill(pid, signal.SIGKILL)
        self.storm.wait_for_state(name, "running", not_pid=pid)

    def plugin_freezes(self) -> None:
        name = self.chance.choice(list(self.storm.recorders))
        pid = self.storm.wait_for_state(name, "running").pid
        os.kill(pid, signal.SIGSTOP)
        for trainer in self.alive():
            trainer.wait_for_more(500)
        os.kill(pid, signal.SIGCONT)

    def trainer_dies(self) -> None:
        self.chance.choice(self.alive()).kill()
        self.storm.trainer("--burst", "20", **BUS)

    def trainer_freezes(self) -> None:
        trainer = self.chance.choice(self.alive())
        wait_for(lambda: self._state(trainer) == "running", what=f"{trainer.run} to be known")  # who was never heard can't be missed
        os.kill(trainer.process.pid, signal.SIGSTOP)
        wait_for(lambda: self._state(trainer) == "lost", what=f"{trainer.run} to be lost")
        os.kill(trainer.process.pid, signal.SIGCONT)
        wait_for(lambda: self._state(trainer) == "running", what=f"{trainer.run} to be found")

    def trainer_ends(self) -> None:
        self.storm.finish(self.chance.choice(self.alive()))
        self.storm.trainer("--burst", "20", **BUS)

    def everything_dies(self) -> None:
        self.storm.kill_everything()
        self.storm.trainer("--burst", "20", **BUS)  # works before anybody is there to hear it
        self.storm.trainers[-1].wait_for_returned(200)
        self.storm.up("alpha", "beta", bus=BUS)

    def _state(self, trainer: Trainer) -> str:
        with Client(root=self.storm.root) as client:
            return next((run.state for run in client.runs() if run.run == trainer.run), "")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2])
def test_d1_to_d8_after_a_storm_of_faults_the_books_balance_and_every_run_exports(storm, tmp_path, seed):
    """D1 to D8: twenty faults of all sorts in a row; nothing is lost, nothing twice, all in order, for journal, plugins and a reader."""
    storm.up("alpha", "beta", bus=BUS)
    storm.follower()
    for _ in range(2):
        storm.trainer("--burst", "20", **BUS)
    hand = Hand(storm, random.Random(seed))
    for _ in range(20):
        hand.strike()
    for trainer in hand.alive():
        storm.finish(trainer)
    drained = trainbus("spool", "drain")
    assert drained.returncode == 0, drained.stderr
    for trainer in storm.trainers:
        wait_for(lambda trainer=trainer: len(storm.seqs(trainer.board.source)) >= trainer.board.returned, what=trainer.run)
    findings = storm.judge(at_least=5_000)
    assert findings.explained == 0, hand.done
    for trainer in storm.trainers:
        _export_all(trainer, tmp_path)


def _export_all(trainer: Trainer, folder) -> None:
    """The three formats tell the same events, all of them."""
    files = {form: folder / f"{trainer.run}.{form}" for form in ("jsonl", "csv", "parquet")}
    for file in files.values():
        done = trainbus("runs", "export", trainer.run, "--output", str(file))
        assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in files["jsonl"].read_text().splitlines()]
    own = [line["seq"] for line in lines if line["source"] == trainer.board.source]
    assert own == list(range(len(own)))
    assert len(own) in (trainer.board.returned, trainer.board.returned + 1)
    with files["csv"].open() as file:
        assert [int(row["offset"]) for row in csv.DictReader(file)] == [line["offset"] for line in lines]
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table(files["parquet"]).column("offset").to_pylist() == [line["offset"] for line in lines]
