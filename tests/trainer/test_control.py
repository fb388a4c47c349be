"""Every command is answered to an end: accepted and done, or refused with a reason that helps."""

from __future__ import annotations

import psutil
import pytest

from trainbus.bus.events import Command
from trainbus.trainer_node.caches import free_caches
from trainbus.trainer_node.control import Control


class Wheel:
    """A steering that writes down what is turned."""

    def __init__(self, can_evaluate=True):
        self.turned = []
        self.can_evaluate = can_evaluate

    def stop(self, reason):
        self.turned.append(("stop", reason))

    def save(self):
        self.turned.append("save")

    def evaluate(self):
        self.turned.append("evaluate")
        return self.can_evaluate

    def pause(self, paused):
        self.turned.append(("pause", paused))

    def free_caches(self):
        self.turned.append("free_caches")
        return {"freed_bytes": 7}

    def set_learning_rate(self, value):
        self.turned.append(("learning_rate", value))
        return 0.5

    def intervals(self):
        return ["save_steps", "logging_steps"]

    def set_interval(self, name, value):
        self.turned.append((name, value))
        return 10


@pytest.fixture
def answers():
    return []


@pytest.fixture
def control(answers):
    return Control(Wheel(), lambda command, state, reason="", **result: answers.append((command.verb, state, reason, result)))


def say(control, verb, **arguments):
    control.handle(Command(id=verb, verb=verb, arguments=arguments, requested_by="ann"))


def test_stop_is_accepted_at_once_and_done_when_the_training_has_ended(control, answers):
    """Between the two nothing else is accepted but stop."""
    say(control, "stop")
    assert answers == [("stop", "accepted", "", {})]
    assert control.stopping == "stop was asked for by ann"
    say(control, "pause")
    assert answers[-1] == ("pause", "refused", "the run is stopping", {})
    control.finish(control.take("stop"), "done", result={"step": 5})
    assert answers[-1] == ("stop", "done", "", {"step": 5})


def test_pause_and_resume_only_go_one_after_the_other(control, answers):
    """Asking twice is refused, with the state that holds."""
    say(control, "resume")
    assert answers[-1][1:3] == ("refused", "the run is not paused")
    say(control, "pause")
    assert control.paused
    say(control, "pause")
    assert answers[-1][1:3] == ("refused", "the run is paused already")
    say(control, "resume")
    assert not control.paused
    assert [state for verb, state, *_ in answers if verb == "resume"] == ["refused", "accepted", "done"]


def test_caches_are_freed_at_once_also_while_paused(control, answers):
    """The answer says what came of it."""
    say(control, "pause")
    say(control, "free_caches")
    assert answers[-1] == ("free_caches", "done", "", {"freed_bytes": 7})


def test_free_heap_and_garbage_go_back_to_the_system():
    """Also what only a cycle holds."""
    kept = [bytearray(20_000) for _ in range(5_000)]
    kept.append(kept)
    before = psutil.Process().memory_info().rss
    del kept
    freed = free_caches()
    assert freed["unreachable_objects"] > 0
    assert freed["freed_bytes"] > 50 << 20
    assert psutil.Process().memory_info().rss < before - (50 << 20)


def test_stop_ends_a_pause(control):
    """A paused run can be stopped without being resumed first."""
    say(control, "pause")
    say(control, "stop")
    assert not control.paused


def test_set_answers_with_the_values_before(control, answers):
    """Who turns a knob learns how to turn it back."""
    say(control, "set", learning_rate=0.01, save_steps=5)
    assert answers[-1] == (
        "set",
        "done",
        "",
        {"before": {"learning_rate": 0.5, "save_steps": 10}, "now": {"learning_rate": 0.01, "save_steps": 5}},
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "nothing to set"),
        ({"colour": 1}, "colour can't be set in this training; allowed: learning_rate, save_steps, logging_steps"),
        ({"eval_steps": 5}, "eval_steps can't be set in this training"),
        ({"learning_rate": 1}, "above 0 and below 1"),
        ({"learning_rate": float("nan")}, "above 0 and below 1"),
        ({"learning_rate": True}, "above 0 and below 1"),
        ({"save_steps": 0}, "at least 1"),
        ({"save_steps": 2.5}, "at least 1"),
        ({"learning_rate": 0.1, "save_steps": "x"}, "at least 1"),
    ],
)
def test_set_refuses_what_is_out_of_range_and_then_sets_nothing(answers, arguments, says):
    """All or nothing: a command with one wrong value changes none."""
    wheel = Wheel()
    control = Control(wheel, lambda command, state, reason="", **result: answers.append((state, reason)))
    say(control, "set", **arguments)
    assert [state for state, _ in answers] == ["refused"]
    assert says in answers[0][1]
    assert wheel.turned == []


def test_what_cannot_be_done_is_refused_with_its_reason(answers):
    """Skip has no next file, evaluate no data, and an unknown verb gets the list."""
    control = Control(Wheel(can_evaluate=False), lambda command, state, reason="", **result: answers.append((state, reason)))
    for verb in ("skip", "evaluate", "dance"):
        say(control, verb)
    assert [state for state, _ in answers] == ["refused"] * 3
    assert "no next file" in answers[0][1]
    assert "no evaluation data" in answers[1][1]
    assert "allowed: evaluate, free_caches, pause, resume, save, set, skip, stop" in answers[2][1]


def test_what_still_waits_at_the_end_is_refused(control, answers):
    """No command stays without an end."""
    say(control, "save")
    say(control, "evaluate")
    control.abandon("the training has ended")
    assert [(verb, state) for verb, state, *_ in answers[-2:]] == [("save", "refused"), ("evaluate", "refused")]
    stats = control.stats()
    assert (stats.accepted, stats.waiting) == (2, 0)
