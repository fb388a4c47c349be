"""Commands for a daemon, over a real bus: while it is idle, while it loads, and about its queue."""

from __future__ import annotations

import json

import pytest

from tests.support import trainbus, wait_for
from trainbus.bus.client import Client

LONG = 120.0


def control(*arguments):
    done = trainbus("control", *arguments, "--json", "--timeout", "60", timeout=LONG)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else " ".join((done.stdout + done.stderr).split())


def idle_detail():
    """Why the run is idle, as the journal says it; None when it isn't."""
    with Client() as client:
        phases = [event for event in client.events(kinds=("phase",)) if event.name == "idle"]
    return phases[-1].detail if phases and phases[-1].state != "ended" else None


def jobs():
    with Client() as client:
        return [(event.file, event.state, event.priority) for event in client.events(kinds=("job",))]


@pytest.mark.timeout(600)
def test_an_idle_daemon_is_a_running_run_that_obeys_and_says_why_it_waits(inbox, broker):
    """Hold, set-priority, remove, pause, resume, set, stop: each answered; `trainbus queue` beside it is told to the bus, too."""
    inbox.start()
    wait_for(lambda: idle_detail() == "the inbox is empty", LONG)
    assert control("queue-hold", "--reason", "maintenance")[0] == 0
    inbox.put("a.jsonl", [{"question": "x", "answer": "y"}])
    inbox.put("b.jsonl", [{"question": "x", "answer": "y"}])
    wait_for(lambda: "the queue is held" in (idle_detail() or "") and "(maintenance)" in idle_detail(), LONG)
    wait_for(lambda: {file for file, _, _ in jobs()} == {"a.jsonl", "b.jsonl"}, LONG)
    code, answer = control("queue-priority", "b.jsonl", "high", "--reason", "first")
    assert (code, answer["state"], answer["result"]["file"]) == (0, "done", "b.jsonl")
    assert control("queue-priority", "nothing", "high")[0] == 4
    assert control("queue-remove", "b.jsonl")[0] == 0
    assert trainbus("queue", "set-priority", "a.jsonl", "low").returncode == 0
    wait_for(lambda: ("a.jsonl", "queued", "low") in jobs(), LONG)
    assert ("b.jsonl", "queued", "high") in jobs()
    assert jobs()[-2:] == [("b.jsonl", "failed", "normal"), ("a.jsonl", "queued", "low")]
    assert control("pause", "--reason", "lunch")[0] == 0
    wait_for(lambda: "(lunch)" in (idle_detail() or ""), LONG)
    assert control("pause")[0] == 4
    shown = trainbus("queue", "status")
    assert ("lunch" in shown.stdout, "maintenance" in shown.stdout) == (True, True), shown.stdout
    code, why = control("evaluate")
    assert (code, "no file is being trained on" in why) == (4, True)
    with Client() as client:
        (run,) = client.runs()
        assert run.state == "running"
        assert client.command(run.run, "set", learning_rate=1e-5)
    assert control("resume")[0] == 0
    assert control("stop", "--reason", "enough")[0] == 0
    assert inbox.process.wait(LONG) == 0, inbox.log.read_text()
    with Client() as client:
        (run,) = client.runs()
        answers = [event.verb for event in client.events(kinds=("command_result",)) if event.state == "done"]
    assert (run.state, run.reason) == ("stopped", "enough")
    assert answers == ["queue_hold", "queue_priority", "queue_remove", "pause", "set", "resume", "stop"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_skip_and_stop_do_not_wait_for_a_model_to_be_loaded(inbox, broker):
    """Nothing has to be saved then: the worker ends at once, the file waits, and no attempt is counted."""
    inbox.put("a.jsonl", [{"question": "x", "answer": "y"}] * 50)
    inbox.start()
    inbox.wait_for("training begins")
    code, answer = control("skip", "--reason", "not now")
    assert (code, answer["state"]) == (0, "done"), answer
    wait_for(lambda: ("a.jsonl", "skipped", "low") in jobs(), LONG)
    wait_for(lambda: "takes up what was skipped (1)" in (idle_detail() or ""), LONG, what="it is laid aside, also when there is no other")
    assert control("queue-retry", "a.jsonl")[0] == 0
    wait_for(lambda: jobs()[-1] == ("a.jsonl", "processing", "low"), LONG)
    assert control("stop", "--reason", "night")[0] == 0
    assert inbox.process.wait(LONG) == 0, inbox.log.read_text()
    (job,) = json.loads(trainbus("queue", "list", "--json").stdout)
    assert (job["state"], job["attempts"], job["reason"]) == ("queued", 0, "night")
