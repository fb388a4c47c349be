"""`trainbus control` and a run that answers."""

from __future__ import annotations

import json
import threading

import pytest

import trainbus
from tests.support import wait_for
from trainbus.bus.events import CommandResult
from trainbus.cli import app


@pytest.fixture
def obedient(broker):
    """A run that does what it is told, but refuses to skip; gives the commands that it has seen."""
    seen, stop = [], threading.Event()

    def work():
        with trainbus.init("worker", run="worker-1") as run:
            run.step(1, loss=1.0)
            while not stop.wait(0.01):
                for command in run.commands():
                    seen.append(command)
                    if command.verb == "skip":
                        run.result(command, "refused", reason="there is no other file")
                    elif command.verb == "evaluate":
                        run.publish(CommandResult(command="somebody-else's", verb="evaluate", state="refused"))
                        run.result(command, metric=0.5)
                    elif command.verb != "save":
                        run.result(command, "accepted")
                        run.result(command, step=1)

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: app.run(["runs", "show", "worker-1"]) == 0)
    yield seen
    stop.set()
    thread.join(20)


def test_a_command_is_obeyed_and_answered(obedient, capsys):
    """The run may be left out while only one runs; its answer is printed."""
    capsys.readouterr()
    assert app.run(["control", "pause", "--reason", "lunch", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["state"], answer["verb"], answer["result"]) == ("done", "pause", {"step": 1})
    assert obedient[-1].reason == "lunch"
    assert obedient[-1].requested_by


def test_a_verb_of_two_words_has_a_hyphen(obedient):
    """As options have; on the wire it is free_caches."""
    assert app.run(["control", "free-caches", "worker"]) == 0
    assert obedient[-1].verb == "free_caches"


def test_a_refusal_is_exit_code_4_with_its_reason(obedient, capsys):
    """The run's own words."""
    assert app.run(["control", "skip", "worker"]) == 4
    assert "there is no other file" in capsys.readouterr().err


def test_the_answer_to_somebody_elses_command_is_not_ours(obedient, capsys):
    """Two people may ask at once."""
    capsys.readouterr()
    assert app.run(["control", "evaluate", "worker", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"] == {"metric": 0.5}


def test_set_sends_typed_values(obedient):
    """Numbers are numbers."""
    assert app.run(["control", "set", "worker", "learning_rate=1e-5", "name=x"]) == 0
    assert obedient[-1].arguments == {"learning_rate": 1e-5, "name": "x"}


def test_no_answer_in_time_is_exit_code_3(obedient, capsys):
    """And says that the command stays."""
    assert app.run(["control", "save", "worker", "--timeout", "0.2"]) == 3
    assert "stays in the journal" in capsys.readouterr().err


def test_a_run_that_has_ended_takes_no_commands(a_run, capsys):
    """Refused by the broker: exit code 4."""
    assert app.run(["control", "pause", a_run]) == 4
    assert app.run(["control", "pause"]) == 4
    assert "No run is running." in capsys.readouterr().err
