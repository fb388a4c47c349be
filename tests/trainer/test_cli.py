"""``trainbus train`` as a person uses it: a summary or JSON, mistakes in words with an exit code, signals that save."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest


@pytest.fixture
def trainbus_train(tmp_path):
    """Run the command in an empty directory; gives the finished process."""

    def run(*arguments):
        command = [sys.executable, "-m", "trainbus", "train", *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=110, check=False
        )

    return run


def test_a_job_ends_with_a_summary_in_json_and_a_configuration_file_says_the_rest(trainbus_train, tiny_base, questions, tmp_path):
    """[trainer] holds the settings, options override them, and stdout is one JSON document."""
    (tmp_path / "trainbus.toml").write_text(f'[trainer]\nmodel = "{tiny_base}"\nmax_steps = 50\nbatch_size = 2\nlora_r = 2\n')
    done = trainbus_train(questions, "--max-steps", 3, "--output", "out", "--set", "trainer.save_steps=2", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["outcome"], summary["steps"], summary["output"]) == ("completed", 3, "out")
    assert summary["checkpoints"] == ["out/checkpoint-2", "out/checkpoint-3"]
    assert summary["run"].startswith("questions")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--learning-rate", "1"], 2, ["trainer.learning_rate", "1"]),
        (["--set", "trainer.learnin_rate=0.1"], 2, ["learnin_rate", "learning_rate"]),
        (["--method", "magic"], 2, ["magic", "qlora"]),
        (["missing.jsonl", "--model", "."], 7, ["missing.jsonl"]),
        (["broken.jsonl", "--model", "."], 8, ["config.json is missing"]),
        (["broken.jsonl", "--model", "BASE", "--max-steps", "1"], 7, ["broken.jsonl, line 2", "not valid JSON"]),
        (["broken.jsonl", "--model", "BASE", "--resume"], 2, ["--output"]),
        (["broken.jsonl", "--model", "BASE", "--resume", "--output", "nowhere"], 8, ["nowhere has no checkpoint"]),
    ],
)
def test_a_mistake_is_told_in_words_with_its_exit_code(trainbus_train, tiny_base, tmp_path, arguments, code, says):
    """No traceback: what is wrong and what is allowed."""
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    done = trainbus_train(*[str(tiny_base) if argument == "BASE" else argument for argument in arguments])
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    for words in says:
        assert words in done.stderr


@pytest.mark.slow  # starts Python with torch twice, and trains in between
@pytest.mark.timeout(300)
def test_sigterm_saves_and_ends_cleanly_and_resume_goes_on_as_the_same_run(trainbus_train, tiny_base, questions, tmp_path):
    """What systemd or a scheduler does to a training costs no step."""
    options = ["--model", str(tiny_base), "--max-steps", "100000", "--output", "out", "--json", "--set", "trainer.save_steps=20"]
    command = [sys.executable, "-m", "trainbus", "train", str(questions), *options]
    with subprocess.Popen(command, cwd=tmp_path, env={**os.environ}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 90
        while not (tmp_path / "out" / "checkpoint-20").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        told, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    summary = json.loads(told)
    assert (summary["outcome"], summary["reason"]) == ("stopped", "signal SIGTERM")
    assert summary["checkpoints"][-1] == f"out/checkpoint-{summary['steps']}"
    more = summary["steps"] + 2
    done = trainbus_train(questions, "--model", tiny_base, "--output", "out", "--resume", "--max-steps", more)
    assert done.returncode == 0, done.stderr
    assert f"resuming run {summary['run']}" in done.stderr
    assert "completed" in done.stdout
    assert f"2 of {more:,}, resumed at {summary['steps']}" in done.stdout
