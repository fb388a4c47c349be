"""`transformers serve`: its contract against a stand-in, and the real one on loopback with small models."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugins.inference.tools import QUESTIONS, WORDS, checkpoint, given_up, of, write_set
from tests.support import wait_for
from trainbus.bus.events import Eval, Sample

DEADLINE = 300.0
"""Seconds that a loaded machine may need to import torch and transformers."""


def test_a_model_is_loaded_before_it_is_asked(examiner, server, until, tmp_path):
    """By its path on the server's side; loading has its own time limit."""
    server.routes["/load_model"] = lambda body: (200, 'data: {"status": "loading"}\n\ndata: {"status": "ready", "cached": false}\n\n')
    harness = examiner(engine="transformers", paths={"/models": "/mnt"})
    harness.feed(checkpoint(1))
    until(lambda: of(harness, Eval))
    assert server.calls == [("/load_model", {"model": "/mnt/checkpoint-1"})]
    assert {body["model"] for body in server.requests} == {"/mnt/checkpoint-1"}


def test_an_older_version_without_the_route_loads_with_the_first_question(examiner, server, until):
    """404 is no fault."""
    harness = examiner(engine="transformers")
    harness.feed(checkpoint(1))
    until(lambda: of(harness, Eval))
    assert given_up(harness) == []


def test_a_model_that_cannot_be_loaded_is_given_up_with_the_servers_words(examiner, server, until):
    """The stream of its progress ends in an error, with status 200."""
    server.routes["/load_model"] = lambda body: (200, 'data: {"status": "error", "message": "no file named config.json"}\n\n')
    harness = examiner(engine="transformers", attempts=2)
    harness.feed(checkpoint(1))
    until(lambda: given_up(harness))
    assert "no file named config.json" in given_up(harness)[0].message
    assert server.requests == []


def test_a_bare_adapter_is_refused_with_what_to_do(examiner, server, until, tmp_path):
    """It can't serve one."""
    (tmp_path / "adapter_config.json").write_text("{}")
    harness = examiner(engine="transformers")
    harness.feed(checkpoint(1, path=str(tmp_path)))
    until(lambda: given_up(harness))
    assert "bare adapter" in given_up(harness)[0].message
    assert server.calls == []


@pytest.fixture
def serve(tmp_path):
    """Starts `transformers serve` on a free port; gives its address and the process."""
    pytest.importorskip("openai", reason="transformers serve needs its extra `serving`")
    started = []

    def make():
        log = tmp_path / f"serve-{len(started)}.log"
        program = Path(sys.executable).with_name("transformers")
        command = [str(program), "serve", "--host", "127.0.0.1", "--port", "0", "--device", "cpu", "--log-level", "info"]
        with log.open("wb") as output:
            environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
            process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=tmp_path)
        started.append(process)
        found = wait_for(lambda: re.search(r"running on http://127\.0\.0\.1:(\d+)", log.read_text()) or process.poll(), DEADLINE)
        assert isinstance(found, re.Match), log.read_text()[-2000:]
        return f"http://127.0.0.1:{found[1]}/v1", process

    yield make
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_real_server_answers_for_each_checkpoint_with_that_checkpoint(models, serve, examiner, tmp_path):
    """The answers are those of the very model, greedily, token for token; a model that isn't there is given up, the next is examined."""
    root, said = models
    url, _ = serve()
    questions = write_set(tmp_path / "asked.jsonl", QUESTIONS)
    harness = examiner(url=url, engine="transformers", questions=questions, policy="every", max_tokens=WORDS, attempts=2, timeout=300.0)
    harness.feed(checkpoint(1, path=str(root / "checkpoint-1")), checkpoint(9, path=str(root / "checkpoint-9")))
    harness.feed(checkpoint(2, path=str(root / "checkpoint-2")))
    wait_for(lambda: len(of(harness, Eval)) + len(given_up(harness)) == 3, DEADLINE)
    assert {(sample.step, sample.example): sample.answer for sample in of(harness, Sample)} == said
    assert [alert.evidence["checkpoint"] for alert in given_up(harness)] == ["r@9:abc"]
    assert any(said[1, question["id"]] != said[2, question["id"]] for question in QUESTIONS), "both models say the same"
