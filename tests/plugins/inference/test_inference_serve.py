"""`trainbus serve` itself, as a process: adapters are sent to it, asked, and measured; killed in between, nothing is lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

from tests.plugins.inference.tools import QUESTIONS, WORDS, checkpoint, given_up, of, write_set
from tests.support import wait_for
from trainbus.bus.events import Eval, Sample

pytest.importorskip("trainbus.serving.app", reason="this trainbus has no server")

DEADLINE = 300.0


@pytest.fixture(scope="session")
def adapters(models):
    """Two sealed adapters over the first of the models."""
    torch, peft, transformers = pytest.importorskip("torch"), pytest.importorskip("peft"), pytest.importorskip("transformers")
    from trainbus.trainer_node.checkpoints import seal

    base = models[0] / "checkpoint-1"
    for step in (1, 2):
        torch.manual_seed(step)
        settings = peft.LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
        folder = models[0] / f"adapter-{step}"
        peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(folder)
        seal(folder, run="r", name="r", step=step)
    return base, [str(models[0] / f"adapter-{step}") for step in (1, 2)]


@pytest.fixture
def serve(adapters, tmp_path):
    """Starts the server with a store; a port given again is the same server after a restart."""
    started = []

    def make(port=0):
        log = tmp_path / f"serve-{len(started)}.log"
        command = [sys.executable, "-m", "trainbus", "serve", "--port", str(port), "--device", "cpu", "--store", str(tmp_path / "store")]
        command += ["--fetch-from", "127.0.0.1"]
        with log.open("wb") as output:
            process = subprocess.Popen([*command, f"tiny={adapters[0]}"], stdout=output, stderr=output)
        started.append(process)
        found = wait_for(lambda: re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text()) or process.poll(), DEADLINE)
        assert isinstance(found, re.Match), log.read_text()[-2000:]
        return int(found[1]), process

    yield make
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("travel", ["upload", "fetch"])
def test_adapters_are_brought_asked_and_measured_through_a_kill_of_the_server(travel, adapters, serve, examiner, tmp_path):
    """Each answers for itself; losses and confidences are real; what was there before the kill does not travel again."""
    questions = write_set(tmp_path / "asked.jsonl", QUESTIONS)
    port, process = serve()
    settings = {"engine": "trainbus", travel: True, "base": "tiny", "questions": questions, "policy": "every", "max_tokens": WORDS}
    harness = examiner(url=f"http://127.0.0.1:{port}/v1", timeout=300.0, logprobs=True, likelihood="chat", attempts=20, **settings)
    harness.feed(checkpoint(1, path=adapters[1][0]))
    wait_for(lambda: of(harness, Eval) or given_up(harness), DEADLINE)
    assert given_up(harness) == []
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    harness.feed(checkpoint(2, path=adapters[1][1]))
    serve(port)
    wait_for(lambda: len(of(harness, Eval)) == 2 or given_up(harness), DEADLINE)
    assert given_up(harness) == []
    first, second = of(harness, Eval)
    assert [first.checkpoint, second.checkpoint] == ["r@1:abc", "r@2:abc"]
    assert first.metrics["cross_entropy"] != second.metrics["cross_entropy"]
    samples = of(harness, Sample)
    assert all(sample.loss > 0 and 0 < sample.metrics["confidence"] <= 1 for sample in samples)
    answers = [[sample.answer for sample in samples if sample.step == step] for step in (1, 2)]
    assert answers[0] != answers[1]
