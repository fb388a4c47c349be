"""What the commands on the pages find when they are run: files of the names that the pages use, and a training that obeys."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.docs.blocks import ROOT
from tests.support import trainbus, wait_for

RUN = "my-run"
TRAIN = """
import sys
for step in range(1, 6):
    print(f"step {step} loss {1 / step:.3f}", flush=True)
"""
OBEDIENT = f"""
import sys, threading, time, trainbus
threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
done, step, paused = threading.Event(), 0, False
with trainbus.init("{RUN}", run="{RUN}") as run:
    while not done.wait(0.05):
        for command in run.commands():
            paused = {{"pause": True, "resume": False}}.get(command.verb, paused)
            run.result(command)
        if not paused:
            step += 1
            run.step(step, loss=1.0 / step)
"""


class Stage:
    """A folder in which a page's commands run one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        (bin_folder / "trainbus").write_text(f'#!/bin/sh\nexec {sys.executable} -m trainbus "$@"\n')
        (bin_folder / "trainbus").chmod(0o755)
        path = os.pathsep.join([str(bin_folder), str(Path(sys.executable).parent), os.environ["PATH"]])
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.environment = {**os.environ, "PATH": path, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self._files()
        self.training: subprocess.Popen[bytes] | None = None

    def _files(self) -> None:
        rows = [{"step": step, "loss": 2.0 / step, "learning_rate": 1e-4} for step in range(1, 40)]
        (self.folder / "train.py").write_text(TRAIN)
        (self.folder / "train").write_text('#!/bin/sh\nfor step in 1 2 3; do echo "it $step of 3 loss=0.5"; done\n')
        (self.folder / "train").chmod(0o755)
        (self.folder / "log.csv").write_text("step,loss\n" + "".join(f"{row['step']},{row['loss']}\n" for row in rows))
        (self.folder / "logs").mkdir()
        (self.folder / "logs" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (self.folder / "run" / "snapshots").mkdir(parents=True)
        (self.folder / "run" / "trainer_state.json").write_text(json.dumps({"global_step": 39, "log_history": rows}))

    def begin_training(self) -> None:
        """A training that pauses and resumes when it is told to."""
        if self.training is None:
            self.training = subprocess.Popen(
                [sys.executable, "-c", OBEDIENT], stdin=subprocess.PIPE, cwd=self.folder, env=self.environment, stderr=subprocess.DEVNULL
            )

    def presume_a_bus(self) -> None:
        """A page may speak of a bus that runs already."""
        if trainbus("status", env=self.environment).returncode == 3:
            up = trainbus("up", "--detach", "--plugins", "", env=self.environment)
            assert up.returncode == 0, up.stderr

    def knows_the_run(self) -> bool:
        """Whether the broker, if one runs, has heard of the training."""
        return trainbus("runs", "show", RUN, env=self.environment).returncode == 0

    def run(self, command: str) -> None:
        """One line of a page, as a shell takes it. What would follow for ever is interrupted after its first line."""
        line = command.replace(" RUN", f" {RUN}")
        if any(word in line for word in ("control", "runs", "tail", "logs ", "journal", RUN)):
            self.presume_a_bus()
            self.begin_training()
            wait_for(self.knows_the_run, 60.0, what="the training is known")
        if "--follow" in line:
            self._follow(line)
            return
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"$ {line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"

    def _follow(self, line: str) -> None:
        with subprocess.Popen(["bash", "-c", f"exec {line}"], cwd=self.folder, env=self.environment, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline(), f"$ {line}: nothing came"
            process.send_signal(signal.SIGINT)
            process.stdout.read()
        assert process.returncode in (0, 130, -signal.SIGINT), f"$ {line}: exit code {process.returncode}"

    def close(self) -> None:
        """End the training and the bus."""
        if self.training is not None:
            assert self.training.stdin is not None
            self.training.stdin.close()
            self.training.wait(180)
        trainbus("down", env=self.environment)
