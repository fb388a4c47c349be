"""Trainings of several processes: they agree at each step, each tells its own pace, and what was asked for is what comes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tests.support import trainbus, wait_for
from trainbus.bus.client import Client
from trainbus.bus.events import CommandResult, Eval, RunStarted, Sample, Step
from trainbus.errors import ConfigError
from trainbus.trainer_node import checkpoints, own_time, parallel
from trainbus.trainer_node.config import TrainerConfig
from trainbus.trainer_node.job import run_job
from trainbus.trainer_node.ranks import Ranks

LONG = 240.0
CONSTANT = "scheduler=constant"


def trainer(wrapper, mixed="no"):
    kind = type(wrapper, (), {})
    return SimpleNamespace(model_wrapped=kind(), accelerator=SimpleNamespace(mixed_precision=mixed))


def test_what_came_is_what_was_asked_for_or_refused(monkeypatch):
    """FSDP that became DDP, one process where several were asked for, another precision: each names both sides (W-13)."""
    config = TrainerConfig(dtype="float32")
    parallel.require(config, trainer("Qwen3ForCausalLM"), 1)
    parallel.require(config, trainer("DistributedDataParallel"), 2)
    with pytest.raises(ConfigError, match="'fsdp' was asked for, and what came is ddp"):
        parallel.require(TrainerConfig(dtype="float32", parallel="fsdp"), trainer("DistributedDataParallel"), 2)
    with pytest.raises(ConfigError, match="'ddp' was asked for, and what came is one process") as caught:
        parallel.require(TrainerConfig(dtype="float32", parallel="ddp"), trainer("Qwen3ForCausalLM"), 1)
    assert "torchrun" in caught.value.hint
    with pytest.raises(ConfigError, match="'float32' was asked for, and accelerate computes with mixed precision 'fp16'"):
        parallel.require(config, trainer("DistributedDataParallel", "fp16"), 2)
    with pytest.raises(ConfigError, match="several GPUs"):
        parallel.require(config, trainer("DataParallel"), 1)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="'fsdp' was asked for, and what came is ddp"):
        parallel.require(config, trainer("DistributedDataParallel"), 2)


def test_one_process_that_was_to_be_several_does_not_train(tiny_base, questions, tmp_path, published):
    """The refusal comes out of a training that was about to begin; the run has failed, and no step was made."""
    config = TrainerConfig(
        model=str(tiny_base), data=str(questions), output=str(tmp_path / "out"), method="full", parallel="ddp", max_steps=2
    )
    with pytest.raises(ConfigError, match="what came is one process"):
        run_job(config)
    assert published("step") == []
    assert published("run_ended")[0].outcome == "failed"


def test_a_straggler_is_the_slowest_beside_the_median():
    """With its rank; a process that is alone agrees with itself."""
    assert own_time.compared([1.0, 1.2, 5.0, 1.1]) == {"own_seconds_slowest": 5.0, "own_seconds_median": 1.15, "slowest_rank": 2}
    alone = Ranks()
    assert (alone.gather([3.0]), alone.any(True), alone.any(False), alone.share_text("x")) == ([[3.0]], True, False, "x")


TOKENISING = """
import json, os, sys
from pathlib import Path
from trainbus.trainer_node.byte_tokenizer import byte_tokenizer
from trainbus.trainer_node.config import TrainerConfig
from trainbus.trainer_node.dataset.preparing import Preparation
from trainbus.trainer_node.ranks import join

data, out = sys.argv[1:]
ranks = join()
with ranks.first():
    preparation = Preparation(TrainerConfig(data=data, max_length=64), byte_tokenizer(), tolerant=False, root=None, note=lambda _: None)
    ready = preparation.run(Path(out), None)
told = {"made": preparation.stats().made, "found": preparation.stats().found, "examples": len(ready.training)}
Path(f"{out}-{ranks.rank}").write_text(json.dumps(told))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_of_several_processes_the_first_one_tokenises_and_the_others_find_it(tmp_path, questions):
    """Two gloo processes: one has made the data, the other has read what it made; an error of the first reaches both."""
    (tmp_path / "tokenising.py").write_text(TOKENISING)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "tokenising.py")]

    def launch(data):
        done = subprocess.run(
            [*launcher, str(data), str(tmp_path / "out")], capture_output=True, text=True, check=False, timeout=LONG,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        return done.returncode, done.stderr

    code, errors = launch(questions)
    assert code == 0, errors
    told = [json.loads((tmp_path / f"out-{rank}").read_text()) for rank in (0, 1)]
    assert told == [{"made": 1, "found": 0, "examples": 40}, {"made": 0, "found": 1, "examples": 40}]
    (tmp_path / "bad.jsonl").write_text("{\n")
    code, errors = launch(tmp_path / "bad.jsonl")
    assert (code != 0, "DataError" in errors) == (True, True), errors


class Torchrun:
    """``torchrun --nproc-per-node 2 -m trainbus train``."""

    def __init__(self, tmp_path, base, questions):
        self._folder = tmp_path
        self._fixed = [str(questions), "--model", str(base), "--method", "full", "--output", "out", "--json", "--name", "two"]
        self.process = None

    def start(self, *settings):
        chosen = [
            part for setting in ("batch_size=1", "max_length=64", "eval_tokens=3", *settings) for part in ("--set", f"trainer.{setting}")
        ]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "trainbus", "train"]
        with (self._folder / "out.json").open("w") as output, (self._folder / "errors.txt").open("w") as errors:
            self.process = subprocess.Popen(
                [*launcher, *self._fixed, *chosen], stdout=output, stderr=errors, cwd=self._folder,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def errors(self):
        return (self._folder / "errors.txt").read_text()

    def summary(self):
        assert self.process.wait(LONG) == 0, self.errors()
        return json.loads((self._folder / "out.json").read_text())

    def worker(self, rank):
        """The process of one rank."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            if child.environ().get("RANK") == str(rank):
                return child
        raise AssertionError(rank)


@pytest.fixture
def torchrun(tmp_path, tiny_base, questions):
    """A launcher that is ended with the test."""
    launched = Torchrun(tmp_path, tiny_base, questions)
    yield launched
    if launched.process is not None and launched.process.poll() is None:
        launched.process.terminate()
        launched.process.wait()


@pytest.fixture
def bus(trainbus_home, tmp_path):
    """A broker; gives a client."""
    (tmp_path / "trainbus.toml").write_text("plugins = []\n")
    up = trainbus("up", "--detach", "--config", str(tmp_path / "trainbus.toml"), timeout=120)
    assert up.returncode == 0, up.stdout + up.stderr
    with Client() as client:
        yield client
    trainbus("down")


def of(client, kind):
    return list(client.events(kinds=[kind.__struct_config__.tag]))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_stop_pause_save_and_turn_together(torchrun, bus):
    """Rank 0 publishes the run, each rank its own steps; a checkpoint of both is whole; a signal to one stops both; both resume."""
    torchrun.start(
        "max_steps=1000000", "save_steps=1000000", "eval_fraction=0.1", "eval_steps=1000000", "learning_rate=1e-3", "scheduler=constant"
    )

    def steps(rank):
        return [event for event in of(bus, Step) if event.rank == rank]

    def ask(verb, **arguments):
        command = bus.command(run, verb, **arguments)
        ends = lambda: [one for one in of(bus, CommandResult) if one.command == command and one.state != "accepted"]  # noqa: E731
        (told,) = wait_for(ends, LONG, what=f"an answer to {verb}: {torchrun.errors()}")
        assert told.state == "done", told
        return told.result

    wait_for(lambda: torchrun.process.poll() is not None or (len(steps(0)) > 3 and len(steps(1)) > 3), LONG, what="steps of both")
    assert torchrun.process.poll() is None, torchrun.errors()
    (started,) = of(bus, RunStarted)
    run = started.run
    assert started.world_size == 2
    ask("pause")
    saved = ask("save")
    assert "loss" in ask("evaluate")
    assert ask("set", learning_rate=5e-4, save_steps=500000)["before"]["learning_rate"] == pytest.approx(1e-3)
    at_pause = len(steps(0))
    path = Path(saved["path"])
    assert checkpoints.faults(path, contents=True) == []
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {file.name for file in path.iterdir()}
    ask("resume")
    wait_for(lambda: len(steps(0)) > at_pause + 3, LONG, what="more steps")
    torchrun.worker(1).send_signal(signal.SIGTERM)
    summary = torchrun.summary()
    assert (summary["outcome"], summary["run"]) == ("stopped", run)
    assert summary["checkpoints"][-1] == f"out/checkpoint-{summary['steps']}"
    first, second = steps(0), steps(1)
    assert [event.step for event in first] == [event.step for event in second] == list(range(1, summary["steps"] + 1))
    assert all(event.metrics["own_seconds"] > 0 for event in second)
    assert [event.metrics["loss"] for event in first] != [event.metrics["loss"] for event in second]
    for told in (first, second):
        rates = [event.metrics["learning_rate"] for event in told]
        assert (rates[0], rates[-1]) == pytest.approx((1e-3, 5e-4))
    assert {"own_seconds_slowest", "own_seconds_median", "slowest_rank"} <= first[-1].metrics.keys()
    assert (len(of(bus, Eval)), len(of(bus, Sample))) == (1, 4)
    alone = trainbus("train", *torchrun._fixed, "--resume", "--set", "trainer.max_length=64", cwd=torchrun._folder)
    assert (alone.returncode, "was saved by 2 processes" in alone.stdout) == (2, True), alone.stdout + alone.stderr
    torchrun._fixed.append("--resume")
    torchrun.start(f"max_steps={summary['steps'] + 2}", "eval_fraction=0.1", CONSTANT)
    again = torchrun.summary()
    assert (again["outcome"], again["run"], again["steps"]) == ("completed", run, 2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fsdp_that_would_silently_be_ddp_is_refused(torchrun):
    """transformers shards on GPUs only: on a CPU the training does not begin, and says what was asked and what came."""
    torchrun.start("max_steps=2", "parallel=fsdp")
    assert torchrun.process.wait(LONG) != 0
    assert "parallel = 'fsdp' was asked for, and what came is ddp" in (torchrun._folder / "out.json").read_text()
