"""A third party's OpenAI-compatible server that has the model already: LitServe, on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.plugins.inference.tools import QUESTIONS, WORDS, checkpoint, given_up, of, write_set
from tests.support import wait_for
from trainbus.bus.events import Eval, Sample

DEADLINE = 300.0
"""Seconds that a loaded machine may need to import torch and transformers."""


@pytest.fixture
def lit_server(models, tmp_path):
    """Serves the first of the models; gives its address."""
    pytest.importorskip("litserve")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = str(Path(__file__).with_name("lit_model.py"))
    log = tmp_path / "litserve.log"
    with log.open("wb") as output:
        command = [sys.executable, script, str(port), str(models[0] / "checkpoint-1")]
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=tmp_path, start_new_session=True)

    def healthy():
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    try:
        wait_for(healthy, DEADLINE)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_real_server_is_asked_in_the_openai_form(models, lit_server, examiner, tmp_path):
    """The answers are those of the model, greedily, token for token; several are asked at once, and each lands under its question."""
    questions = write_set(tmp_path / "asked.jsonl", QUESTIONS)
    harness = examiner(url=lit_server, model="whatever", questions=questions, max_tokens=WORDS, timeout=300.0, logprobs=True)
    harness.feed(checkpoint(1))
    wait_for(lambda: of(harness, Eval) or given_up(harness), DEADLINE)
    assert {sample.example: sample.answer for sample in of(harness, Sample)} == {
        question["id"]: models[1][1, question["id"]] for question in QUESTIONS
    }
