"""``trainbus serve`` as a process: it tells its address, answers, and ends when it is told to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

from tests.serving.tools import Client
from tests.support import trainbus


def start(*arguments):
    command = [sys.executable, "-m", "trainbus", "serve", "--json", "--port", "0", "--device", "cpu", "--threads", "1", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_checkpoint_is_served_with_its_base_until_the_signal(models, tmp_path):
    """An adapter's folder brings its base along; keys come from files; SIGTERM ends it with 0."""
    key = tmp_path / "key"
    key.write_text("secret\n")
    with start(
        str(models / "checkpoint-1"), "--adapter", f"two={models / 'checkpoint-2'}", "--admin-key-file", str(key), "--allow", str(models)
    ) as process:
        try:
            told = json.loads(process.stdout.readline())
            assert told["models"] == ["checkpoint-1", "base", "two"]
            client = Client(told["url"], "secret")
            texts = {name: client.chat(model=name).body["choices"][0]["message"]["content"] for name in ("", "base", "two", "checkpoint-1")}
            assert texts[""] == texts["checkpoint-1"]
            assert len(set(texts.values())) == 3
            assert Client(told["url"]).chat().status == 401
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert "secret" not in errors


def test_mistakes_are_told_before_anything_is_loaded(models, tmp_path):
    """Nothing to serve, no model, an open address without keys, two of a name: a sentence, a hint, and its exit code."""
    for arguments, code, words in (
        ((), 2, "nothing to serve"),
        ((str(tmp_path / "none"),), 8, "no folder"),
        ((str(models / "base"), "--host", "0.0.0.0"), 2, "no key"),
        (("x=" + str(models / "base"), "--adapter", f"x={models / 'checkpoint-1'}"), 2, "named"),
    ):
        done = trainbus("serve", "--json", *arguments)
        assert done.returncode == code, done
        assert words in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
