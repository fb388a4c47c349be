"""A hang is told by the training's own pace."""

from __future__ import annotations

from trainbus.trainer_node.inbox.watchdog import FACTOR, Watchdog


def test_a_step_that_takes_far_longer_than_the_slowest_recent_one_is_a_hang():
    """Above the floor, and above twenty times the slowest."""
    dog = Watchdog(10.0)
    dog.phase("train", 0.0)
    dog.step(1.0)
    dog.step(3.0)
    assert dog.limit == FACTOR * 2.0
    assert dog.hangs(3.0 + dog.limit) == ""
    assert "no step for 41 s" in dog.hangs(3.0 + dog.limit + 1.0)


def test_loading_evaluating_saving_and_pausing_are_no_hang():
    """No steps are expected then; when training goes on, its time begins anew."""
    dog = Watchdog(10.0)
    dog.phase("load_model", 0.0)
    assert dog.hangs(1e6) == ""
    dog.phase("train", 1e6)
    dog.step(1e6 + 1)
    dog.phase("paused", 1e6 + 2)
    assert dog.hangs(2e6) == ""
    dog.phase("train", 2e6)
    assert dog.hangs(2e6 + 19) == ""
    assert dog.hangs(2e6 + 21) != ""


def test_a_floor_of_zero_turns_it_off():
    """For who knows better."""
    dog = Watchdog(0.0)
    dog.phase("train", 0.0)
    assert dog.hangs(1e9) == ""
