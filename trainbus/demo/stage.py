"""The demo's stage: a directory with tasks, base model and configuration, and the processes that play on it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import msgspec

from trainbus.bus.events import DECODE_ERRORS
from trainbus.demo import tasks
from trainbus.demo.guard import DONE
from trainbus.errors import TrainbusError
from trainbus.trainer_node.config import Summary

QUESTIONS = 20
EXAMPLES = 20_000
BASE_STEPS = 150
"""Steps of teaching the base model to copy words; its taught skills stay near 0."""
LEARNING_RATE = 2e-3
STEP_COST = 0.8
"""A LoRA step of the demo takes about this part of a step of teaching the base model."""
STEPS_MIN, STEPS_MAX = 200, 2_000
CHECKPOINTS = 8
START_SECONDS = 60.0

_CONFIG = """\
# Written by `trainbus demo`.
plugins = ["anomaly", "retention", "memory", "web", "inference"]

[trainer]
model = "{root}/base"
data = "{root}/train.jsonl"
eval_file = "{root}/questions.jsonl"
output = "{root}/run"
name = "demo"
max_steps = {steps}
save_steps = {save_steps}
eval_steps = {save_steps}
batch_size = 32
learning_rate = {learning_rate}
scheduler = "constant"
warmup = 20
max_length = 64

[plugin.anomaly.rules.loss_spike]
threshold = 0.6

[plugin.anomaly.snapshot]
rules = ["loss_spike"]
min_free_bytes = 100_000_000

[plugin.retention]
dry_run = false
keep_newest = 2
keep_every = {keep_every}
min_age = 5
interval = 2

[plugin.web]
port = 0

[plugin.inference]
url = "{url}/v1"
questions = "{root}/questions.jsonl"
max_tokens = 8
"""


class Stage:
    """Everything that the demo starts, in one directory; `close` ends all of it, and `trainbus.demo.guard` does when the demo is killed.

    Args:
        root: The directory: state, model, data, checkpoints and logs.
        base_steps: Steps of teaching the base model.
    """

    def __init__(self, root: Path, *, base_steps: int | None = None) -> None:
        self.root = root
        self._base_steps = base_steps or BASE_STEPS
        self.home = root / "home"
        self.steps = 0
        self._processes: list[subprocess.Popen[str]] = []
        self._files: list[IO[str]] = []
        self._environment = {**os.environ, "TRAINBUS_HOME": str(self.home), "NO_COLOR": "1"}
        self._training: subprocess.Popen[str] | None = None
        self._up = False
        self._guard: subprocess.Popen[str] | None = None

    def write_tasks(self) -> None:
        """Questions to examine by, and others to train on."""
        questions = tasks.held_out(QUESTIONS)
        tasks.write(questions, self.root / "questions.jsonl")
        tasks.write(tasks.training(EXAMPLES, 1, questions), self.root / "train.jsonl")

    def make_base(self, seconds: float, steps: int | None, progress: Callable[[float], None]) -> None:
        """Make the base model, and choose the number of training steps so that training takes about ``seconds``."""
        from trainbus.demo.tiny_model import make_base

        started = time.monotonic()
        make_base(self.root / "base", steps=self._base_steps, progress=progress)
        a_step = (time.monotonic() - started) / self._base_steps
        self.steps = steps or max(STEPS_MIN, min(STEPS_MAX, int(seconds / (a_step * STEP_COST))))

    def start_server(self) -> str:
        """``trainbus serve`` with the base and every checkpoint below the root, on one thread: training wants the others; its address."""
        arguments = ["-m", "trainbus", "serve", str(self.root / "base"), "--allow", str(self.root), "--json"]
        arguments += ["--device", "cpu", "--threads", "1", "--port", "0"]
        process = self._start(arguments, "server.log", stdout=subprocess.PIPE)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise TrainbusError("The demo's model server did not start.", hint=f"See {self.root / 'server.log'}.")
        return str(json.loads(line)["url"])

    def write_config(self, url: str) -> None:
        """``trainbus.toml`` for this directory."""
        save_steps = max(1, self.steps // CHECKPOINTS)
        text = _CONFIG.format(
            root=self.root,
            steps=self.steps,
            save_steps=save_steps,
            keep_every=4 * save_steps,
            learning_rate=LEARNING_RATE,
            url=url,
        )
        (self.root / "trainbus.toml").write_text(text)

    def start_bus(self) -> dict[str, Any]:
        """``trainbus up --detach`` with all five plugins; returns what it reports."""
        self._up = True
        self._guarded()
        done = self._trainbus("up", "--detach", "--json")
        report: dict[str, Any] = json.loads(done.stdout or "{}")
        if done.returncode != 0:
            failed = [f"{plugin['name']}: {plugin['error']}" for plugin in report.get("plugins", []) if plugin["state"] == "failed"]
            raise TrainbusError("The bus did not come up. " + "; ".join(failed), hint=f"See {self.home / 'logs'}. {done.stderr.strip()}")
        return report

    def start_training(self) -> None:
        """``trainbus train``: it knows nothing of plugins, and nothing of a demo."""
        self._training = self._start(["-m", "trainbus", "train", "--json"], "train.log", stdout=subprocess.PIPE)

    def training_ended(self) -> bool:
        """Whether the training process is gone."""
        return self._training is not None and self._training.poll() is not None

    def training_summary(self) -> Summary:
        """What `trainbus train` says of itself.

        Raises:
            TrainbusError: It said nothing that can be read.
        """
        assert self._training is not None
        out, _ = self._training.communicate(timeout=START_SECONDS)
        try:
            return msgspec.json.decode(out, type=Summary)
        except DECODE_ERRORS as error:
            said = out.strip() or "nothing"
            raise TrainbusError(f"The training ended without a summary; it said: {said}", hint=f"See {self.root / 'train.log'}.") from error

    def close(self) -> None:
        """End everything, in order."""
        if self._training is not None and self._training.poll() is None:
            self._training.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._training.wait(START_SECONDS)
        if self._up:
            self._trainbus("down")
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        for file in self._files:
            file.close()
        if self._guard is not None:
            with contextlib.suppress(BrokenPipeError):
                self._guard.communicate(DONE)

    def _guarded(self) -> None:
        """From now on all that lives in this home ends when this process does, in whatever way."""
        if self._guard is None:
            # A session of its own: what kills the demo's group must not kill it, too.
            self._guard = subprocess.Popen(
                [sys.executable, "-m", "trainbus.demo.guard"],
                cwd=self.root,
                env=self._environment,
                stdin=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )

    def _trainbus(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "trainbus", *arguments]
        return subprocess.run(command, cwd=self.root, env=self._environment, capture_output=True, text=True, check=False)

    def _start(self, arguments: list[str], log: str, *, stdout: int) -> subprocess.Popen[str]:
        self._guarded()
        file = (self.root / log).open("w")
        self._files.append(file)
        # A session of its own: Ctrl-C is for the demo, which ends its children in order.
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.root,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=file,
            text=True,
            start_new_session=True,
        )
        self._processes.append(process)
        return process
