"""`trainbus generate`: a real server writes data, and the inbox's trainer finds them whole, valid and with their lineage."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from tests.inferring.conftest import stand_in as stand_in
from tests.plugins.retention.support import make
from trainbus.cli.app import run
from trainbus.cli.generate import files_waiting
from trainbus.trainer_node.checkpoints import seal
from trainbus.trainer_node.data import load_file
from trainbus.trainer_node.inbox.daemon import queue_file
from trainbus.trainer_node.inbox.intake import Intake
from trainbus.trainer_node.inbox.queue import Queue


@pytest.fixture
def cli(capsys):
    """Runs a command; gives exit code and output, parsed where it is JSON."""

    def call(*arguments):
        capsys.readouterr()
        code = run(["generate", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if "--json" in arguments else captured.out + captured.err

    return call


@pytest.fixture
def seeds(tmp_path):
    path = tmp_path / "seeds.jsonl"
    path.write_text("".join(json.dumps({"question": f"{n}+{n}=", "answer": str(2 * n)}) + "\n" for n in range(4)))
    return path


@pytest.fixture
def writer(stand_in):
    """A server that writes two new examples, one that the inbox may have, a repetition and nonsense into each answer."""

    def answer(body):
        number = len(stand_in.asked)
        rows = [{"question": f"new {number}.{k}", "answer": "y"} for k in range(2)]
        return "\n".join(map(json.dumps, [*rows, rows[0], {"question": "in the inbox", "answer": "y"}, {"question": 7, "answer": "x"}]))

    stand_in.answer = answer
    return stand_in


def test_new_examples_are_in_the_inbox_each_with_where_it_comes_from(writer, cli, seeds, tmp_path):
    """Validated, without repetitions of themselves, of seeds and of the inbox; the trainer takes the file as any other."""
    inbox = tmp_path / "inbox"
    (inbox / "completed").mkdir(parents=True)
    (inbox / "completed/old.jsonl").write_text('{"question": "In  the INBOX", "answer": "y"}\n')
    code, told = cli(
        seeds, "--server", writer.url, "--inbox", inbox, "--model", "echo", "-n", 6, "--each", 2, "--shown", 2, "--seed", 1, "--json"
    )
    assert (code, told["accepted"], told["model"], told["server"]) == (0, 6, "echo", f"{writer.url}/v1")
    assert told["prompts"] == 3
    assert told["repeated"] == {"another new one": 2, "the inbox": 2}  # behind the last that was wanted nothing is compared
    assert told["rejected"] == {"key 'question' holds a number": 3}
    rows = [json.loads(line) for line in (inbox / told["file"]).read_text().splitlines()]
    assert len(rows) == 6
    for row in rows:
        assert row["lineage"] | {"seeds": 0} == {"job": told["job"], "model": "echo", "template": told["template_digest"], "seeds": 0}
        assert len(row["lineage"]["seeds"]) == 2
    assert json.loads((inbox / ".generated" / f"{told['job']}.json").read_text()) == told
    assert "{examples}" in told["template"]
    rejected = (inbox / ".generated" / f"{told['job']}.rejected.jsonl").read_text().splitlines()
    assert len(rejected) == 3
    assert [path.name for path in inbox.iterdir() if path.is_file()] == [told["file"]]
    with Queue(queue_file()) as queue:
        assert [taken.job.name for taken in Intake(inbox, queue, settle=0.0).look(0.0)] == [told["file"]]
        assert len(load_file(queue.jobs(("queued",))[0].path).examples) == 6


def test_a_row_names_the_checkpoint_that_wrote_it_by_its_id(writer, stand_in, cli, seeds, tmp_path):
    """Its name alone is not enough: a resumed run saves a step again, with other weights."""
    path = make(tmp_path / "out", 7, marker=False)
    identity = seal(path, run="r-1", name="r", step=7).id
    stand_in.models.append(identity)
    code, told = cli(seeds, "--server", writer.url, "--model", f"{path.parent}:7", "--inbox", tmp_path / "inbox", "-n", 2, "--json")
    assert (code, told.get("checkpoint")) == (0, identity), told
    rows = [json.loads(line) for line in (tmp_path / "inbox" / told["file"]).read_text().splitlines()]
    assert {row["lineage"]["checkpoint"] for row in rows} == {identity}


def test_prompts_and_answers_become_examples_and_a_priority_its_folder(stand_in, cli, seeds, tmp_path):
    """A large model teaches a small one: the seeds' own questions are asked."""
    stand_in.answer = lambda body: f"thought {len(stand_in.asked)}"
    inbox = tmp_path / "inbox"
    code, told = cli(seeds, "--server", stand_in.url, "--inbox", inbox, "--take", "answer", "-n", 5, "--priority", "low", "--json")
    assert (code, told["format"], told["file"].split("/")[0]) == (0, "messages", "low")
    loaded = load_file(inbox / told["file"])
    assert {example.turns[0].content for example in loaded.examples} <= {f"{n}+{n}=" for n in range(4)}
    assert all(example.turns[1].content.startswith("thought") for example in loaded.examples)


def test_fewer_than_wanted_is_exit_code_1_and_nothing_is_7_with_what_came(stand_in, cli, seeds, tmp_path):
    """Nothing is put into the inbox when there is nothing to put."""
    inbox = tmp_path / "inbox"
    stand_in.answer = lambda body: '{"question": "only", "answer": "this"}'
    code, text = cli(seeds, "--server", stand_in.url, "--inbox", inbox, "-n", 3)
    assert code == 1
    assert "1 of 3: 3 rounds in a row brought nothing new" in text
    stand_in.answer = lambda body: "I am a teapot"
    code, text = cli(seeds, "--server", stand_in.url, "--inbox", inbox, "-n", 3)
    assert code == 7
    assert "no JSON object" in text
    assert "rejected.jsonl" in text
    assert len(list(inbox.glob("*.jsonl"))) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--inbox", "in"), 2, "No model is named"),
        (("--server", "http://127.0.0.1:9"), 2, "No inbox is named"),
        (("--server", "http://127.0.0.1:9", "--inbox", "in", "--template", "nowhere.txt"), 2, "can't be read"),
        (("--server", "http://127.0.0.1:9", "--inbox", "in"), 3, "Connection refused"),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(cli, seeds, tmp_path, monkeypatch, arguments, code, says):
    """And nothing is left in the folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trainbus.inferring.generating.job.PAUSES_SECONDS", ())
    assert (cli(seeds, *arguments)[0], says in cli(seeds, *arguments)[1]) == (code, True)
    assert not (tmp_path / "in").exists()
    assert cli(tmp_path / "none.jsonl", "--server", "http://127.0.0.1:9", "--inbox", "in")[0] == 7


def test_the_inbox_is_kept_filled_with_one_job_a_cooldown(writer, seeds, tmp_path):
    """A-73: with little waiting more is asked for at once, then not again although the file is gone; Ctrl-C ends it."""
    inbox = tmp_path / "inbox"
    line = [
        sys.executable,
        "-m",
        "trainbus",
        "generate",
        str(seeds),
        "--server",
        writer.url,
        "--inbox",
        str(inbox),
        "-n",
        "2",
        "--each",
        "2",
    ]
    with subprocess.Popen([*line, "--below", "0", "--cooldown", "3600", "--json"], stdout=subprocess.PIPE, text=True) as process:
        first = json.loads(process.stdout.readline())
        assert first["accepted"] == 2
        (inbox / first["file"]).unlink()  # trained on
        process.send_signal(signal.SIGINT)
        assert process.wait(180) == 130
    assert len(writer.asked) == 1


def test_what_waits_is_counted_in_the_folder_and_in_the_queue(tmp_path):
    """Not what was trained on or failed."""
    inbox = tmp_path / "inbox"
    for name in ("a.jsonl", "low/b.jsonl", "completed/c.jsonl", "failed/d.jsonl", ".generated/e.json", "f.part"):
        (inbox / name).parent.mkdir(parents=True, exist_ok=True)
        (inbox / name).write_text("{}")
    assert files_waiting(inbox) == 2
    with Queue(queue_file()) as queue:
        Intake(inbox, queue, settle=0.0).take(inbox / "a.jsonl", "normal")
        assert (files_waiting(inbox), len(list(inbox.glob("*.jsonl")))) == (2, 0)
        queue.take()
    assert files_waiting(inbox) == 1
