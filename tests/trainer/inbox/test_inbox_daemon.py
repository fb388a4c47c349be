"""``trainbus train --inbox`` as a person uses it: files in, one continuous run out, whatever dies on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from tests.support import trainbus, wait_for
from trainbus.bus.home import read_inbox

LONG = 300.0


def questions(first, count):
    return [{"question": f"what is {i}?", "answer": str(i)} for i in range(first, first + count)]


@pytest.mark.timeout(600)
def test_files_become_one_continuous_run_and_a_malformed_one_holds_nobody_up(inbox, published):
    """Steps add up over files, a bad line is kept aside, a bad file fails, each change is a job event, a second daemon is refused."""
    inbox.put("one.jsonl", questions(0, 6))
    inbox.put("two.jsonl.gz", questions(100, 5))
    with (inbox.folder / "one.jsonl").open("a") as file:
        file.write('{"question": "no answer"}\n')
    (inbox.folder / "bad.jsonl").write_text('{"question": "a", "answer": "b"}\n{"question": \n{"question": \n')
    inbox.start("--until-empty")
    inbox.wait_for("training begins")
    second = trainbus("train", "--config", str(inbox.config), "--inbox", str(inbox.folder))
    assert (second.returncode, "runs already" in second.stderr, str(inbox.process.pid) in second.stderr) == (4, True, True), second.stderr
    assert inbox.process.wait(LONG) == 0, inbox.log.read_text()
    assert inbox.jobs() == {
        "queued": [], "processing": [], "completed": ["one.jsonl", "two.jsonl.gz"], "failed": ["bad.jsonl"], "skipped": [],
    }  # fmt: skip
    (rejected,) = map(json.loads, (inbox.folder / "failed" / "one.jsonl.rejected.jsonl").read_text().splitlines())
    assert (rejected["line"], "key 'answer' holds nothing" in rejected["reason"], rejected["content"]) == (
        7,
        True,
        {"question": "no answer"},
    )
    assert "line 2" in (inbox.folder / "failed" / "bad.jsonl.reason.txt").read_text()
    assert sorted(path.name for path in (inbox.folder / "completed").iterdir()) == ["one.jsonl", "two.jsonl.gz"]
    assert inbox.newest().step == 3 + 3
    assert read_inbox() == inbox.folder
    events = published("job")
    assert len({event.run for event in events} | {inbox.newest().run}) == 1
    states = {name: [event.state for event in events if event.file == name] for name in ("one.jsonl", "bad.jsonl")}
    assert states == {"one.jsonl": ["queued", "processing", "completed"], "bad.jsonl": ["queued", "processing", "failed"]}
    (ended,) = published("run_ended")
    assert (ended.outcome, ended.step, published()[-1].kind) == ("completed", 6, "run_ended")
    assert len(published("run_started")) == 2, "the daemon's and its first worker's: the others go on where that one has ended"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sigterm_kill_9_of_worker_and_of_daemon_lose_no_example_and_show_none_twice(inbox):
    """Each time the next daemon goes on with the same run; in the end the counts are right, and no step was counted twice."""
    for number in range(3):
        inbox.put(f"{number}.jsonl", questions(1000 * number, 60))
    inbox.start()
    wait_for(lambda: (m := inbox.newest()) and m.step >= 5, LONG, what="a checkpoint")
    inbox.process.send_signal(signal.SIGTERM)
    assert inbox.process.wait(LONG) == 0, inbox.log.read_text()
    stopped = inbox.newest()
    assert stopped.examples == 2 * stopped.step
    inbox.start()
    wait_for(lambda: inbox.newest().step > stopped.step, LONG, what="another checkpoint")
    worker = int(subprocess.run(["pgrep", "-P", str(inbox.process.pid)], capture_output=True, text=True, check=True).stdout.split()[0])
    os.kill(worker, signal.SIGKILL)
    inbox.wait_for("SIGKILL")
    at_death = inbox.newest()
    wait_for(lambda: inbox.newest().step > at_death.step, LONG, what="a checkpoint after the worker's death")
    inbox.process.kill()
    inbox.process.wait()
    inbox.start("--until-empty")
    assert inbox.process.wait(LONG) == 0, inbox.log.read_text()
    assert inbox.jobs()["completed"] == ["0.jsonl", "1.jsonl", "2.jsonl"]
    last = inbox.newest()
    assert (last.step, last.examples) == (90, 180)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_file_that_always_kills_its_worker_fails_after_three_attempts(inbox, monkeypatch, published):
    """The reason names the signal and where to read on; the file is put aside, and the daemon lives."""
    monkeypatch.setenv("PYTHONPATH", f"{inbox.folder.parent}:{os.environ['PYTHONPATH']}")
    (inbox.folder.parent / "sitecustomize.py").write_text(
        "import os, sys\nif 'trainbus.trainer_node.inbox.worker' in ' '.join(sys.orig_argv):\n    os.kill(os.getpid(), 9)\n"
    )
    inbox.put("a.jsonl", questions(0, 2))
    inbox.start("--until-empty")
    assert inbox.process.wait(LONG) == 0, inbox.log.read_text()
    assert inbox.jobs()["failed"] == ["a.jsonl"]
    reason = (inbox.folder / "failed" / "a.jsonl.reason.txt").read_text()
    assert "SIGKILL" in reason
    assert "3 attempts" in reason
    alerts = published("alert")
    assert [(alert.rule, alert.severity, alert.plugin) for alert in alerts] == [("crash", "critical", "trainer")] * 3
    assert len({alert.id for alert in alerts}) == 3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_death_is_explained_by_its_last_lines_with_advice(inbox, monkeypatch, published):
    """As `trainbus exec` would: the kind, the line that proves it, what to do."""
    monkeypatch.setenv("PYTHONPATH", f"{inbox.folder.parent}:{os.environ['PYTHONPATH']}")
    (inbox.folder.parent / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'trainbus.trainer_node.inbox.worker' in ' '.join(sys.orig_argv):\n"
        "    print('torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.', file=sys.stderr, flush=True)\n"
        "    os._exit(1)\n"
    )
    inbox.put("a.jsonl", questions(0, 2))
    inbox.start("--until-empty", "--set", "trainer.attempts=1")
    assert inbox.process.wait(LONG) == 0, inbox.log.read_text()
    (alert,) = published("alert")
    assert (alert.evidence["kind"], "Tried to allocate 2.00 GiB" in alert.message) == ("gpu_memory", True)
    assert "batch size" in alert.advice
    assert alert.evidence["last_lines"][-1].startswith("torch.OutOfMemoryError")
    assert "batch size" in (inbox.folder / "failed" / "a.jsonl.reason.txt").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_file_whose_last_checkpoint_could_not_be_finished_is_not_done(inbox, monkeypatch):
    """The next file would go on from before it, and its last examples would be lost: it is tried again from the checkpoint before."""
    folder = inbox.folder.parent
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{os.environ['PYTHONPATH']}")
    (folder / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'trainbus.trainer_node.inbox.worker' in ' '.join(sys.orig_argv):\n"
        "    from trainbus.trainer_node import sealing\n"
        "    original = sealing.seal\n"
        "    def seal(path, **facts):\n"
        f"        if facts['step'] == 8 and not os.path.exists('{folder}/failed'):\n"
        f"            open('{folder}/failed', 'w').close()\n"
        "            raise OSError(5, 'Input/output error')\n"
        "        return original(path, **facts)\n"
        "    sealing.seal = seal\n"
    )
    inbox.put("a.jsonl", questions(0, 16))
    inbox.start("--until-empty")
    inbox.wait_for("its last checkpoint could not be finished")
    assert inbox.process.wait(LONG) == 0, inbox.log.read_text()
    assert inbox.jobs()["completed"] == ["a.jsonl"]
    assert (inbox.newest().step, inbox.newest().examples) == (8, 16)


def test_an_inbox_has_no_end_so_a_schedule_that_needs_one_is_refused(inbox):
    """Told before anything is loaded."""
    refused = trainbus("train", "--config", str(inbox.config), "--set", "trainer.scheduler=cosine")
    assert refused.returncode == 2
    assert "trainer.scheduler" in refused.stderr


def test_the_queue_is_edited_from_the_command_line_while_no_trainer_runs(inbox, tmp_path):
    """add, list, set-priority, move, remove, retry; what can't be is told."""
    for name in "abc":
        (tmp_path / f"{name}.jsonl").write_text('{"text": "x"}\n')
    config = ["--config", str(inbox.config)]

    def run(*arguments):
        done = trainbus("queue", *arguments)
        assert "Traceback" not in done.stderr
        return done

    def waiting():
        return [job["name"] for job in json.loads(run("list", "--json").stdout)]

    assert run("list").returncode == 0
    assert run("add", *(str(tmp_path / f"{name}.jsonl") for name in "abc"), *config, "--priority", "normal").returncode == 0
    assert waiting() == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert run("set-priority", "c.jsonl", "high").returncode == 0
    assert run("move", "b.jsonl", "a.jsonl").returncode == 0
    assert waiting() == ["c.jsonl", "b.jsonl", "a.jsonl"]
    assert run("remove", "b.jsonl").returncode == 0
    assert waiting() == ["c.jsonl", "a.jsonl"]
    assert (inbox.folder / "failed" / "b.jsonl").exists()
    assert (tmp_path / "b.jsonl").exists()
    assert [job["name"] for job in json.loads(run("list", "--all", "--json").stdout)][:2] == ["c.jsonl", "a.jsonl"]
    assert run("retry", "a.jsonl", "--inbox", str(inbox.folder)).returncode == 4
    assert run("remove", "nothing").returncode == 4
    assert run("add", str(tmp_path / "missing.jsonl"), *config).returncode == 7
