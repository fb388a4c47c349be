"""An inbox with a tiny model, and the daemon that watches it."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys

import pytest

from tests.cli.conftest import broker
from tests.support import trainbus, wait_for
from trainbus.trainer_node import checkpoints

__all__ = ["broker"]

LONG = 300.0


class Inbox:
    """A folder, and the daemon that watches it."""

    def __init__(self, tmp_path, base):
        self.folder = tmp_path / "inbox"
        self.output = tmp_path / "out"
        self.folder.mkdir()
        self.config = tmp_path / "trainbus.toml"
        self.config.write_text(f"""
            [trainer]
            model = "{base}"
            inbox = "{self.folder}"
            output = "{self.output}"
            method = "full"
            batch_size = 2
            save_steps = 5
            max_length = 64
            settle_seconds = 0.2
            retry_seconds = 0.1
            free_disk = 1
        """)
        self.process = None
        self.log = tmp_path / "daemon.jsonl"

    def start(self, *options):
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "trainbus", "train", "--config", str(self.config), "--json", *options],
                stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "HF_HUB_OFFLINE": "1"}, cwd=self.folder.parent,
            )  # fmt: skip

    def told(self):
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def wait_for(self, text):
        wait_for(lambda: any(text in told["text"] for told in self.told()), LONG, what=f"{text!r} in {self.log.read_text()}")

    def jobs(self):
        listed = trainbus("queue", "status", "--json")
        assert listed.returncode == 0, listed.stderr
        return {state: [job["name"] for job in jobs] for state, jobs in json.loads(listed.stdout).items()}

    def put(self, name, rows):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        path = self.folder / name
        path.write_bytes(gzip.compress(lines.encode()) if name.endswith(".gz") else lines.encode())

    def newest(self):
        found = [path for path in checkpoints.listed(self.output) if not checkpoints.faults(path)]
        return checkpoints.read_marker(found[-1]) if found else None


@pytest.fixture
def inbox(tmp_path, tiny_base):
    """An inbox with a tiny model; whatever runs is ended with the test."""
    inbox = Inbox(tmp_path, tiny_base)
    yield inbox
    if inbox.process is not None and inbox.process.poll() is None:
        inbox.process.terminate()
        inbox.process.wait()
