"""Training, serving and examining at once on GSM8K, in real processes and through faults: nothing is lost, doubled or under a wrong id."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from tests.faults.proxy import Proxy
from tests.hosting.system import System
from tests.support import wait_for
from trainbus.bus.client import Client

LONG = 600.0
"""For what takes seconds on a quiet machine, with training and serving beside it."""
LOOK_SECONDS = 0.25
"""Between two looks at the journal: the two cores are for training and serving."""
TRAINED_ON = 400
"""Examples."""
SAVE_STEPS, ENOUGH = 12, 4
"""Steps between checkpoints; checkpoints that are examined while training goes on, before it is told to end."""
KEPT = 1
"""Newest checkpoints that retention keeps, beside the best one."""
GOES_ON = 3
"""Steps that training makes while the server is away."""
SETS = {"gsm8k": 2, "gsm8k-more": 8}
"""Questions of each set. When the first is done a checkpoint may go, for all that retention asks for: the lease alone keeps it then."""
SHAPE = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 32, "max_position_embeddings": 2048,
}  # fmt: skip


class Story:
    """The processes, and what the journal tells of them."""

    def __init__(self, folder: Path, data: Path, system: System) -> None:
        self.folder, self.system = folder, system
        self.output = folder / "out"
        self.output.mkdir()
        self._environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        self._logs: dict[str, Path] = {}
        self.processes: list[subprocess.Popen] = []
        self.proxy: Proxy | None = None
        self.client: Client | None = None
        lines = (data / "train.jsonl").open().readlines()[:TRAINED_ON]
        (folder / "train.jsonl").write_text("".join(lines))
        with (data / "test.jsonl").open() as file:
            for name, questions in SETS.items():
                (folder / f"{name}.jsonl").write_text("".join(islice(file, questions)))
        self._make_base()

    def _make_base(self) -> None:
        import torch

        from trainbus.trainer_node.byte_tokenizer import byte_tokenizer
        from trainbus.trainer_node.model import SMALL_QWEN3, from_config

        torch.manual_seed(0)
        tokenizer = byte_tokenizer(1024)
        from_config({**SMALL_QWEN3, **SHAPE}, tokenizer).save_pretrained(self.folder / "base")
        tokenizer.save_pretrained(self.folder / "base")

    def _start(self, name: str, *arguments: str) -> subprocess.Popen:
        self._logs[name] = self.folder / f"{name}-{len(self.processes)}.log"
        with self._logs[name].open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "trainbus", *arguments], stdout=log, stderr=log, cwd=self.folder, env=self._environment
            )
        self.processes.append(process)
        return process

    def serve(self, port: int = 0) -> int:
        """`trainbus serve`; given its old port it is the same server after a restart."""
        allowed = ("--allow", str(self.output), "--store", str(self.folder / "store"), "--fetch-from", "127.0.0.1")
        self.server = self._start(
            "serve", "serve", f"base={self.folder / 'base'}", "--port", str(port), "--device", "cpu", "--threads", "1", *allowed
        )
        log = self._logs["serve"]
        found = wait_for(lambda: re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text()) or self.server.poll(), LONG, what="the server")
        assert isinstance(found, re.Match), log.read_text()
        return int(found[1])

    def up(self, url: str, travel: str) -> None:
        """Broker, examiner and retention; a checkpoint that was not examined is not deleted."""
        self.system.up(
            "retention",
            "inference",
            retention={
                "dry_run": False, "keep_newest": KEPT, "min_age": 0, "interval": 0.1, "min_evaluations": 1,
                "keep_best": [{"metric": "gsm8k/cross_entropy", "direction": "max"}],
            },
            inference={
                "url": url, "engine": "trainbus", "base": "base", "policy": "every", "scorer": "number_match", "likelihood": "chat",
                "questions": str(self.folder / "gsm8k.jsonl"), "sets": [{"questions": str(self.folder / "gsm8k-more.jsonl")}],
                "max_tokens": 6, "concurrency": 2, "timeout": LONG, "attempts": 1000, "pause": 0.05, "longest_pause": 0.5,
                **({travel: True} if travel != "path" else {}),
            },
        )  # fmt: skip

    def train(self) -> None:
        """Steps until somebody says stop."""
        self.trainer = self._start(
            "train", "train", "train.jsonl", "--model", str(self.folder / "base"), "--name", "story", "--output", str(self.output),
            "--method", "lora", "--json", "--max-steps", "100000",
            "--set", f"trainer.save_steps={SAVE_STEPS}", "--set", "trainer.max_length=384", "--set", "trainer.learning_rate=1e-2",
            "--set", "trainer.scheduler=constant", "--set", "trainer.batch_size=4",
        )  # fmt: skip

    def events(self, kind: str) -> list:
        if self.client is None:
            self.client = Client(root=self.system.root)
        return list(self.client.events(kinds=[kind]))

    def checkpoints(self) -> list:
        return [event for event in self.events("checkpoint") if event.state == "complete"]

    def samples(self) -> list:
        return [event for event in self.events("sample") if event.checkpoint]

    def results(self) -> list:
        return [event for event in self.events("eval") if event.checkpoint]

    def until(self, condition, what: str):
        """Wait for it; whoever ends meanwhile ends the test."""

        def met():
            time.sleep(LOOK_SECONDS)
            for name, process in (("train", self.trainer), ("serve", self.server)):
                assert process.poll() in (None, -signal.SIGKILL, 0), f"{name} ended: {self._logs[name].read_text()[-3000:]}"
            return condition()

        try:
            return wait_for(met, LONG, what=what)
        except AssertionError as error:
            logs = "\n".join(f"--- {name}\n{self._logs[name].read_text()[-1500:]}" for name in self._logs)
            raise AssertionError(f"{error}\n{logs}\n--- inference\n{self.system.log('inference')[-3000:]}") from error

    def lost(self) -> list[str]:
        """How the alert about the server went."""
        return [alert.state for alert in self.events("alert") if alert.rule == "inference_server_lost"]

    def training_goes_on(self) -> None:
        at = len(self.events("step"))
        self.until(lambda: len(self.events("step")) >= at + GOES_ON, "training goes on")

    def stop(self) -> dict:
        """The trainer's own summary."""
        run = self.events("step")[-1].run
        self.client.command(run, "stop")
        wait_for(lambda: self.trainer.poll() is not None, LONG, what="the trainer to end")
        log = self._logs["train"].read_text()
        assert self.trainer.returncode == 0, log
        return json.loads(log.splitlines()[-1])

    def on_disk(self) -> set[int]:
        return {int(path.name.rpartition("-")[2]) for path in self.output.glob("checkpoint-*")}

    def close(self) -> None:
        if self.client is not None:
            self.client.close()
        for process in self.processes:
            process.kill()
            process.wait()
        if self.proxy is not None:
            self.proxy.close()


@pytest.fixture
def story(tmp_path, shared_data, trainbus_home):
    for module in ("torch", "transformers", "peft", "aiohttp", "xxhash"):
        pytest.importorskip(module)
    if not (shared_data / "gsm8k" / "train.jsonl").exists():
        pytest.skip("no ../shared/data/gsm8k")
    system = System(trainbus_home)
    made = Story(tmp_path, shared_data / "gsm8k", system)
    yield made
    made.close()
    system.close()


def nothing(story: Story, port: int) -> None:
    """The quiet story."""


def kill_the_server(story: Story, port: int) -> None:
    """kill -9; training goes on, the alert comes, and goes when the server is there again."""
    story.server.kill()
    story.until(lambda: story.lost()[-1:] == ["raised"], "the loss of the server to be told")
    story.training_goes_on()
    story.serve(port)
    story.until(lambda: story.lost()[-1:] == ["cleared"], "the server back")


def kill_the_plugin(story: Story, port: int) -> None:
    """kill -9; the supervisor starts it again."""
    old = story.system.plugin("inference").pid
    os.kill(old, signal.SIGKILL)
    story.training_goes_on()
    story.until(lambda: (new := story.system.plugin("inference")).state == "running" and new.pid != old, "the plugin back")


def cut_the_connection(story: Story, port: int) -> None:
    """All connections break, and none is made for a while."""
    story.proxy.become("cut")
    story.until(lambda: story.lost()[-1:] == ["raised"], "the loss of the server to be told")
    story.training_goes_on()
    story.proxy.become("whole")
    story.until(lambda: story.lost()[-1:] == ["cleared"], "the line back")


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize(
    ("fault", "travel"),
    [(nothing, "path"), (kill_the_server, "upload"), (kill_the_plugin, "fetch"), (cut_the_connection, "upload")],
    ids=["quiet", "server killed", "plugin killed", "connection cut"],
)
def test_every_checkpoint_is_examined_once_while_training_goes_on(fault, travel, story):
    """Results under the right ids, retention keeps what is examined and then the newest and the best by the late metric."""
    port = story.serve()
    story.proxy = Proxy(f"tcp://127.0.0.1:{port}") if fault is cut_the_connection else None
    address = story.proxy.address.removeprefix("tcp://") if story.proxy else f"127.0.0.1:{port}"
    story.up(f"http://{address}/v1", travel)
    story.train()
    story.until(lambda: len(story.samples()) > 2 * sum(SETS.values()), "the third checkpoint to be asked")
    fault(story, port)
    story.until(lambda: len(story.results()) >= ENOUGH * len(SETS), "checkpoints to be examined")
    assert story.trainer.poll() is None, "all of that was while training went on"
    summary = story.stop()
    complete = story.checkpoints()
    story.until(lambda: len(story.results()) >= len(complete) * len(SETS), "the last checkpoints to be examined")

    assert summary["outcome"] == "stopped"
    assert [event.step for event in story.events("step")] == list(range(1, summary["steps"] + 1))
    assert len(complete) > ENOUGH
    assert_examined_once(story, complete)
    assert_kept(story, complete)
    assert {alert.rule for alert in story.events("alert") if alert.plugin == "inference"} <= {"inference_server_lost"}


def assert_examined_once(story: Story, complete: list) -> None:
    """Each checkpoint has one result of each set, and one answer to each question, with its own id and step."""
    results, samples = story.results(), story.samples()
    steps = {event.id: event.step for event in complete}
    assert Counter((event.checkpoint, event.dataset) for event in results) == {(identity, name): 1 for identity in steps for name in SETS}
    assert all(event.examples == SETS[event.dataset] for event in results)
    asked = Counter((event.checkpoint, event.dataset, event.example) for event in samples)
    assert set(asked.values()) == {1}
    assert Counter((identity, name) for identity, name, _ in asked) == {
        (identity, name): questions for identity in steps for name, questions in SETS.items()
    }
    assert all(event.step == steps[event.checkpoint] for event in (*results, *samples))
    assert all(event.loss > 0 for event in samples)
    for result in results:
        own = [
            (event.loss, event.metrics["tokens"])
            for event in samples
            if (event.checkpoint, event.dataset) == (result.checkpoint, result.dataset)
        ]
        whole = sum(loss * tokens for loss, tokens in own) / sum(tokens for _, tokens in own)
        assert result.metrics["cross_entropy"] == pytest.approx(whole)


def assert_kept(story: Story, complete: list) -> None:
    """Nobody deletes what is being examined; in the end the newest are there, and the one that a metric which came late says is best."""
    deleted = {event.id: event.offset for event in story.events("checkpoint") if event.state == "deleted"}
    for event in (*story.samples(), *story.results()):
        assert event.offset < deleted.get(event.checkpoint, event.offset + 1), "deleted while it was examined"
    measured = {event.step: event.metrics["cross_entropy"] for event in story.results() if event.dataset == "gsm8k"}
    best = max(measured, key=lambda step: measured[step])
    newest = [event.step for event in complete][-KEPT:]
    assert best not in newest, "the one that learnt least is an early one"
    wait_for(lambda: story.on_disk() == {best, *newest}, LONG, what=f"{best} and {newest} alone, and not {story.on_disk()}")
