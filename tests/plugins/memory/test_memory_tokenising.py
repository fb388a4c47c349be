"""A training's data preparation under the plugin's eyes: a file that is far larger than what preparing it may take."""

import json
import random
import subprocess
import sys

import pytest

from tests.hosting.system import System
from tests.plugins.memory.leak_runs import ACT
from trainbus.bus.events import Phase

CHATS, CHAT_BYTES = 15_000, 5_600
ABOVE_IMPORTS = 150e6
"""Bytes that preparing may take beyond what the process had when it began; the file has 84 MB, its tokens as lists several times that."""


@pytest.fixture
def system(trainbus_home):
    started = System(trainbus_home)
    yield started
    started.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tokenising_a_large_file_raises_no_alert_and_stays_within_its_bound(system, tmp_path):
    """A real training of two steps: what the plugin sees of its process while it loads and tokenises."""
    pytest.importorskip("torch")
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghijklmnop", k=chance.randint(2, 9))) for _ in range(2_000)]
    path = tmp_path / "chats.jsonl"
    with path.open("w") as file:
        for _ in range(CHATS):
            text = " ".join(chance.choices(words, k=CHAT_BYTES // 13))
            turns = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": text + text[::-1]}]
            file.write(json.dumps({"messages": turns}) + "\n")
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    (tmp_path / "model.json").write_text(json.dumps(shape))
    system.up("memory", memory=ACT)
    command = [sys.executable, "-m", "trainbus", "train", str(path), "--json", "--method", "full", "--output", str(tmp_path / "out")]
    command += ["--model", f"config:{tmp_path / 'model.json'}", "--set", "trainer.max_steps=2", "--set", "trainer.max_length=512"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)["run"]
    events = [event for event in system.events() if event.run == run or event.kind == "system"]
    prepared = {event.name: event for event in events if isinstance(event, Phase) and event.run == run and event.state == "ended"}
    end = prepared["tokenize"].time
    looks = [(event.time, process.rss) for event in events if event.kind == "system" for process in event.processes if process.run == run]
    before = [rss for time, rss in looks if time <= end]
    assert len(before) >= 3, "the plugin saw too little of the preparation"
    assert max(before) - min(before) < ABOVE_IMPORTS
    assert [(event.rule, event.message) for event in events if event.kind == "alert"] == []
