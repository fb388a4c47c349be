"""Every example is seen exactly once by the weights, whatever happens on the way: counted by the numbers that are in the examples."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter

import pytest

from tests.support import trainbus, wait_for
from trainbus.bus.client import Client

LONG = 300.0

RECORDER = """
import os, sys
if "trainbus.trainer_node.inbox.worker" in " ".join(sys.orig_argv):
    import transformers
    original = transformers.Trainer.training_step
    def training_step(self, model, inputs, *rest, **named):
        loss = original(self, model, inputs, *rest, **named)
        texts = self.processing_class.batch_decode(inputs["input_ids"])
        with open(os.environ["SEEN"], "a") as file:
            for text in texts:
                number = text.split("what is ")[1].split("?")[0]
                file.write(f"{os.getpid()} {self.state.global_step} {number}\\n")
        return loss
    transformers.Trainer.training_step = training_step
"""


def seen_by_the_weights(file):
    """Of what was shown, all that no later worker has gone back behind: it began at an older checkpoint, whose weights lack the rest."""
    kept = []
    worker = None
    for line in file.read_text().splitlines():
        pid, step, number = map(int, line.split())
        if pid != worker:
            worker = pid
            kept = [(before, one) for before, one in kept if before < step]
        kept.append((step, number))
    return Counter(number for _, number in kept)


@pytest.fixture
def seen(inbox, monkeypatch):
    """The file in which workers write what they have trained on."""
    folder = inbox.folder.parent
    (folder / "sitecustomize.py").write_text(RECORDER)
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{os.environ['PYTHONPATH']}")
    monkeypatch.setenv("SEEN", str(folder / "seen"))
    return folder / "seen"


def questions(first, count):
    return [{"question": f"what is {i}?", "answer": str(i)} for i in range(first, first + count)]


def control(*arguments):
    done = trainbus("control", *arguments, "--json", "--timeout", "120", timeout=LONG)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def worker_of(daemon):
    found = subprocess.run(["pgrep", "-P", str(daemon)], capture_output=True, text=True, check=False).stdout.split()
    return int(found[0]) if found else None


def phase():
    with Client() as client:
        return list(client.events(kinds=("phase",)))[-1].name


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_example_is_seen_once_through_pause_skip_stop_and_death_of_worker_and_daemon(inbox, broker, seen):
    """Three files; a pause, a skip of the first, a set, a killed worker, a stop, a killed daemon: then the numbers are counted."""
    sizes = {"0.jsonl": (0, 4000), "1.jsonl": (5000, 61), "2.jsonl": (6000, 59)}  # the first is not done before it is skipped
    for name, (first, count) in sizes.items():
        inbox.put(name, questions(first, count))
    inbox.start()
    wait_for(lambda: (m := inbox.newest()) and m.step >= 5, LONG, what="a checkpoint")
    control("pause", "--reason", "lunch")
    before = inbox.newest().step
    control("save")
    assert phase() in ("paused", "save")
    control("resume")
    assert control("set", inbox_run(), "learning_rate=1e-5", "save_steps=7")["result"]["now"]["learning_rate"] == 1e-5
    control("skip", "--reason", "another first")
    wait_for(lambda: inbox.jobs()["skipped"] == ["0.jsonl"], LONG)
    assert trainbus("queue", "retry", "0.jsonl", "--inbox", str(inbox.folder)).returncode == 0
    inbox.wait_for("completed")
    wait_for(lambda: inbox.newest().step > before + 10 and worker_of(inbox.process.pid), LONG)
    at_death = inbox.newest().step
    os.kill(worker_of(inbox.process.pid), signal.SIGKILL)
    inbox.wait_for("next attempt")
    wait_for(lambda: inbox.newest().step > at_death, LONG)
    if inbox.process.poll() is None:
        control("stop", "--reason", "night")
    assert inbox.process.wait(LONG) == 0, inbox.log.read_text()
    with Client() as client:
        (run,) = client.runs()
    assert (run.state, run.reason) == ("stopped", "night")
    inbox.start()
    wait_for(lambda: worker_of(inbox.process.pid), LONG)
    inbox.process.kill()
    inbox.process.wait()
    inbox.start("--until-empty")
    assert inbox.process.wait(LONG) == 0, inbox.log.read_text()
    assert sorted(inbox.jobs()["completed"]) == sorted(sizes)
    wanted = {number for first, count in sizes.values() for number in range(first, first + count)}
    counted = seen_by_the_weights(seen)
    assert set(counted) == wanted
    assert set(counted.values()) == {1}, [number for number, times in counted.items() if times > 1]
    assert inbox.newest().examples == len(wanted)
    with Client() as client:
        (run,) = client.runs()
        ended = [event.outcome for event in client.events(kinds=("run_ended",)) if event.outcome != "lost"]
        assert list(client.events(kinds=("run_started",)))[-1].config["save_steps"] == 7, "and holds for later daemons, too"
        learning_rates = {event.step: event.metrics["learning_rate"] for event in client.events(kinds=("step",))}
    assert (run.state, ended) == ("completed", ["stopped", "completed"])
    assert learning_rates[max(learning_rates)] < 1e-4, "what was set holds for the files after it, too"


def inbox_run():
    with Client() as client:
        return client.runs()[0].run
