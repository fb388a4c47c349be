"""Commands are journaled, delivered to the run's owner, and delivered again until a result is in the journal."""

from __future__ import annotations

import msgspec
import pytest

from tests.broker.broker_bench import body, step
from trainbus.bus import events, wire


@pytest.fixture
def training(bench):
    """A run with an owner that has said hello."""
    bench.hello("s", owner=True, peer=b"trainer")
    bench.publish("s", body(events.RunStarted(name="r"), "s", 0), step("s", 1), peer=b"trainer")
    bench.forget()
    return bench


def send(bench, run: str = "r", verb: str = "pause", **fields) -> str:
    return bench.ask(wire.SendCommand(run=run, verb=verb, **fields), dict[str, str])["id"]


def delivered(bench) -> list[events.Command]:
    return [events.decode(message.body, message.offset) for message in bench.messages(wire.Deliver, b"trainer")]


def answer(bench, command: str, state: str, seq: int) -> None:
    bench.publish("s", body(events.CommandResult(command=command, verb="pause", state=state), "s", seq), first=seq, peer=b"trainer")


def test_a_command_is_journaled_and_then_delivered(training):
    number = send(training, verb="evaluate", arguments={"dataset": "dev"}, requested_by="ann", reason="curious")
    (journaled,) = training.history(kinds=["command"])
    (command,) = delivered(training)
    assert command == journaled
    assert (command.id, command.verb, command.arguments) == (number, "evaluate", {"dataset": "dev"})
    assert (command.requested_by, command.reason, command.run) == ("ann", "curious", "r")


def test_a_command_is_not_delivered_before_it_is_committed(training):
    training.say(wire.Call(id=1, request=wire.SendCommand(run="r", verb="stop")))
    batch = training.core.take_batch()
    training.core.tick(training.now + 0.2)
    training.take_effects()
    assert delivered(training) == []
    training.fail(batch)
    training.tick(10)
    assert delivered(training) == []
    assert training.history(kinds=["command"]) == []


def test_a_command_is_delivered_again_until_a_final_result_is_journaled(training):
    number = send(training)
    training.tick(3.5)
    assert len(delivered(training)) == 2
    answer(training, number, "accepted", 2)
    training.tick(3.5)
    assert len(delivered(training)) == 3, "accepted is not the end"
    answer(training, number, "done", 3)
    training.tick(5)
    assert len(delivered(training)) == 3
    training.restart()
    training.hello("s", owner=True, peer=b"trainer")
    assert len(delivered(training)) == 3, "and the end is durable"


def test_a_command_waits_for_its_owner_to_come_back_also_over_a_restart(training):
    send(training)
    training.restart()
    training.forget()
    training.tick(5)
    assert delivered(training) == []
    training.hello("s2", owner=True, peer=b"trainer")
    assert [command.verb for command in delivered(training)] == ["pause"]


def test_commands_are_delivered_in_the_order_of_the_journal(training):
    for verb in ("pause", "save", "resume"):
        send(training, verb=verb)
    training.forget()
    training.hello("s", owner=True, peer=b"trainer")
    assert [command.verb for command in delivered(training)] == ["pause", "save", "resume"]


def test_a_result_in_a_commit_that_fails_ends_nothing(training):
    number = send(training)
    training.say(
        wire.Events(source="s", first=2, bodies=[body(events.CommandResult(command=number, state="done"), "s", 2)]),
        b"trainer",
    )
    training.fail()
    training.forget()
    training.tick(4)
    assert len(delivered(training)) == 1


def test_commands_that_wait_when_the_run_ends_are_refused_in_the_journal(training):
    """Nobody waits for them in vain, and no later process of the run obeys them."""
    number = send(training)
    training.publish("s", body(events.RunEnded(outcome="completed"), "s", 2), first=2, peer=b"trainer")
    (result,) = training.history(kinds=["command_result"])
    assert (result.command, result.state, result.run) == (number, "refused", "r")
    training.forget()
    training.hello("s2", owner=True, peer=b"trainer")
    training.tick(5)
    assert delivered(training) == []


def test_an_unknown_run_is_refused_with_the_nearest_ones(training):
    failure = training.refused(wire.SendCommand(run="rr", verb="stop"))
    assert failure.code == "unknown"
    assert "'rr'" in failure.problem
    assert "Did you mean r?" in failure.hint


@pytest.mark.parametrize("outcome", ["completed", "failed", "stopped"])
def test_a_run_that_has_ended_takes_no_commands(training, outcome):
    training.publish("s", body(events.RunEnded(outcome=outcome), "s", 2), first=2, peer=b"trainer")
    failure = training.refused(wire.SendCommand(run="r", verb="stop"))
    assert (failure.code, outcome in failure.problem) == ("ended", True)


def test_a_run_that_was_resumed_takes_commands_again(training):
    training.publish("s", body(events.RunEnded(outcome="stopped"), "s", 2), first=2, peer=b"trainer")
    training.hello("s2", owner=True, peer=b"trainer")
    training.publish("s2", body(events.RunStarted(resumed_step=1), "s2", 0), peer=b"trainer")
    send(training)
    assert len(delivered(training)) == 1


def test_a_command_for_a_plugin_is_an_event_and_not_the_trainers_also_when_the_run_has_ended(training):
    """A plugin has the journal and its cursor; it can act on what a run has left behind."""
    send(training, verb="pin", plugin="retention", arguments={"checkpoint": "r@1"})
    training.publish("s", body(events.RunEnded(outcome="completed"), "s", 2), first=2, peer=b"trainer")
    number = send(training, verb="unpin", plugin="retention")
    training.tick(10)
    assert delivered(training) == []
    journaled = training.history(kinds=["command"])
    assert [(command.verb, command.plugin) for command in journaled] == [("pin", "retention"), ("unpin", "retention")]
    assert journaled[1].id == number
    assert training.history(kinds=["command_result"]) == []


def test_a_command_for_a_plugin_about_an_unknown_run_is_refused(training):
    """Nobody could answer."""
    assert training.refused(wire.SendCommand(run="rr", verb="pin", plugin="retention")).code == "unknown"


def test_what_a_publisher_calls_a_command_is_none(training):
    """To ask for something needs another role than to tell something; a gap stands in its place."""
    forged = events.Command(id="c", verb="unpin", plugin="retention")
    training.publish("s", body(forged, "s", 2), step("s", 3), body(forged, "s", 4), first=2, peer=b"trainer")
    assert training.history(kinds=["command"]) == []
    assert [event.first_seq for event in training.history(kinds=["gap"])] == [2, 4]
    assert [event.step for event in training.history(kinds=["step"])][-1] == 3


# --- the supervisor -------------------------------------------------------------------------------------


def test_supervise_is_forwarded_to_the_supervisor_and_its_answer_comes_back(bench):
    bench.say(wire.Call(id=1, request=wire.Supervisor(pid=77)), b"supervisor")
    bench.say(wire.Call(id=5, request=wire.Supervise(verb="restart", name="web")), b"person")
    forward = bench.last(wire.Forward, b"supervisor")
    assert (forward.request.verb, forward.request.name) == ("restart", "web")
    bench.say(wire.Forwarded(id=forward.id, ok=True, result=msgspec.Raw(wire.encode({"pid": 12}))), b"supervisor")
    reply = bench.last(wire.Reply, b"person")
    assert (reply.id, bytes(reply.result)) == (5, wire.encode({"pid": 12}))
    assert bench.ask(wire.Status(), wire.BrokerStatus).supervisor == 77


def test_the_supervisors_refusal_is_passed_on_in_its_words(bench):
    bench.say(wire.Call(id=1, request=wire.Supervisor(pid=77)), b"supervisor")
    bench.say(wire.Call(id=5, request=wire.Supervise(verb="add", name="wbe")), b"person")
    forward = bench.last(wire.Forward)
    bench.say(wire.Forwarded(id=forward.id, ok=False, problem="No plugin wbe.", hint="Did you mean web?"), b"supervisor")
    failure = bench.last(wire.Failure, b"person")
    assert (failure.id, failure.code, failure.problem, failure.hint) == (5, "refused", "No plugin wbe.", "Did you mean web?")


def test_without_a_supervisor_or_without_its_answer_the_caller_is_told(bench):
    assert bench.refused(wire.Supervise(verb="plugins")).code == "no_supervisor"
    bench.say(wire.Call(id=1, request=wire.Supervisor(pid=77)), b"supervisor")
    bench.say(wire.Call(id=500, request=wire.Supervise(verb="plugins")), b"person")
    bench.tick(31)
    failure = bench.last(wire.Failure, b"person")
    assert (failure.id, failure.code) == (500, "no_supervisor")
    assert "30 s" in failure.problem


def test_nobody_else_can_answer_for_the_supervisor(bench):
    bench.say(wire.Call(id=1, request=wire.Supervisor(pid=77)), b"supervisor")
    bench.say(wire.Call(id=5, request=wire.Supervise(verb="plugins")), b"person")
    bench.say(wire.Forwarded(id=bench.last(wire.Forward).id), b"stranger")
    assert bench.messages(wire.Reply, b"person") == []
