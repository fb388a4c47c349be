"""A-93 on the side that examines: a run that is trained on the questions is told of."""

from __future__ import annotations

import gzip
import json
import os
import socket

import pytest

from tests.plugins.inference.tools import QUESTIONS, checkpoint, of, write_set
from trainbus.bus.events import Alert, Eval, RunStarted


def began(data, **more):
    return RunStarted(run="r", config={"data": str(data)}, **{"host": socket.gethostname(), "pid": os.getpid()} | more)


def told(harness):
    return [alert for alert in of(harness, Alert) if alert.rule == "questions_in_training_data"]


def test_questions_that_a_run_is_trained_on_are_told(examiner, tmp_path):
    """By their text in any form and format, and by ids; not by numbers, which count the rows of a file."""
    lines = [
        {"question": "something else", "answer": "1", "id": 1},
        {"instruction": "  1  +\n1?", "output": "2"},
        {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]},
        {"prompt": "in other words", "completion": "6", "id": "q3"},
    ]
    file = tmp_path / "train.jsonl"
    file.write_text("no json\n\n" + "".join(json.dumps(line) + "\n" for line in lines))
    asked = [*QUESTIONS, {"id": "1", "question": "9 + 9?", "answer": "18"}]
    harness = examiner(questions=write_set(tmp_path / "exam.jsonl", asked))
    harness.feed(began(file))
    [alert] = told(harness)
    assert alert.evidence == {"file": str(file), "dataset": "exam", "count": 3, "questions": ["q1", "q2", "q3"]}
    assert (alert.run, alert.severity, alert.state) == ("r", "warning", "raised")
    harness.feed(began(file))
    assert {alert.id for alert in told(harness)} == {alert.id}


@pytest.mark.parametrize("where", ["relative", "packed"])
def test_the_file_is_found_and_read_however_it_was_named(where, examiner, tmp_path, monkeypatch):
    """Relative to the training's own directory, or packed; a text that is only measured counts, too."""
    monkeypatch.chdir(tmp_path)
    line = json.dumps({"text": "Once upon a time"}) + "\n"
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(line.encode()))
    (tmp_path / "train.jsonl").write_text(line)
    exam = write_set(tmp_path / "exam.jsonl", [{"text": "once upon  a time", "id": "tale"}])
    harness = examiner(questions=exam, likelihood="completion")
    harness.feed(began("train.jsonl" if where == "relative" else tmp_path / "train.jsonl.gz"))
    assert [alert.evidence["questions"] for alert in told(harness)] == [["tale"]]


@pytest.mark.parametrize("data", ["gone.jsonl", "hub/name", "", "/", 7, None, "train.parquet", "broken.jsonl.gz", "a\0b.jsonl"])
def test_what_is_not_at_hand_is_not_guessed(data, examiner, until, tmp_path, monkeypatch):
    """No alert and no failure; the examination goes on. Neither for a run on another machine."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "train.parquet").write_text(json.dumps(QUESTIONS[0]))
    (tmp_path / "train.jsonl").write_text(json.dumps(QUESTIONS[0]))
    harness = examiner()
    harness.feed(RunStarted(run="r", config={"data": data}, host=socket.gethostname(), pid=os.getpid()))
    harness.feed(began(tmp_path / "train.jsonl", host="elsewhere"), checkpoint(1))
    until(lambda: of(harness, Eval))
    assert told(harness) == []
