"""Start, wait, kill or give up: decided by what happened and when, with a clock that the test turns."""

import pytest

from trainbus.bus.hosting.supervision import DEATHS, LONGEST_PAUSE, Policy, Supervision


@pytest.fixture
def child():
    """A child that was just added, at time 0; stuck after 300 s."""
    return Supervision(Policy(stuck_after=300.0), now=0.0)


def live(child, now, *, runs=0.0, offset=-1):
    """Start it when it is due, let it run, let it die; the time of its death."""
    assert child.due(now)
    child.started(now)
    child.running(now, offset)
    child.exited(now + runs, "exit code 1")
    return now + runs


def test_a_new_child_is_started_at_once(child):
    """And is then not due any more."""
    assert child.due(0.0)
    child.started(0.0)
    assert not child.due(1000.0)
    assert child.alive


def test_pauses_between_restarts_grow_to_a_limit():
    """0.5, 1, 2, ... 60 s: a crash loop must not eat the machine."""
    child, now, pauses = Supervision(Policy(stuck_after=300.0, deaths=None), 0.0), 0.0, []
    for _ in range(10):
        live(child, now)
        pauses.append(child.next_start - now)
        now = child.next_start
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]


def test_a_child_that_keeps_dying_without_getting_on_is_parked(child):
    """After eight deaths; the last words stay readable."""
    now = 0.0
    for _ in range(DEATHS):
        assert child.state == "starting"
        live(child, now)
        now = child.next_start or now
    assert (child.state, child.next_start) == ("failed", None)
    assert "died 8 times" in child.error
    assert "exit code 1" in child.error


def test_a_child_that_gets_on_is_never_parked(child):
    """Every third incarnation puts a poison event aside and finishes one event more: slow, but no crash loop."""
    now = 0.0
    for death in range(60):
        live(child, now, offset=death // 3)
        assert child.state == "starting"
        now = child.next_start


def test_old_deaths_don_t_count(child):
    """One death every five minutes is a nuisance, not a loop."""
    now = 0.0
    for _ in range(30):
        live(child, now)
        now = child.next_start + 300.0
    assert child.state == "starting"


def test_pauses_start_small_again_after_running_well(child):
    """A minute of running makes it well."""
    now = 0.0
    for _ in range(4):
        live(child, now)
        now = child.next_start
    died = live(child, now, runs=61.0)
    assert child.next_start - died == 0.5


def test_a_child_whose_loop_stops_turning_is_stuck_and_killed_once(child):
    """Liveness is judged by progress: stuck, killed, started again."""
    child.started(0.0)
    child.running(1.0)
    assert not child.tick(301.0)
    assert child.tick(301.1)
    assert child.state == "stuck"
    assert not child.tick(302.0)
    child.exited(302.0, "killed by SIGKILL")
    assert child.state == "starting"
    assert child.due(302.5)


def test_a_child_that_can_t_be_loaded_is_parked_at_once(child):
    """A misspelt hook is as misspelt at the second start."""
    child.started(0.0)
    child.refused("there is no hook named 'on_setp'")
    child.exited(0.1, "exit code 6")
    assert (child.state, child.next_start, child.error) == ("failed", None, "there is no hook named 'on_setp'")


def test_a_parked_child_can_be_retried(child):
    """After its author mended it."""
    child.started(0.0)
    child.refused("bad")
    child.exited(0.1, "exit code 6")
    child.retry(50.0)
    assert child.due(50.0)
    assert (child.state, child.error) == ("starting", "")


def test_a_child_that_was_asked_to_stop_stays_away(child):
    """However it ends."""
    child.started(0.0)
    child.running(0.1)
    child.stop()
    child.exited(1.0, "killed by SIGKILL")
    assert (child.state, child.next_start) == ("stopped", None)


def test_stopping_a_child_between_two_lives_cancels_the_next(child):
    """It was waiting to be restarted."""
    live(child, 0.0)
    child.stop()
    assert (child.state, child.due(1e9)) == ("stopped", False)


def test_restarts_count_the_starts_after_the_first(child):
    """Shown in the status."""
    now = 0.0
    for _ in range(3):
        live(child, now)
        now = child.next_start
    child.started(now)
    assert child.restarts == 3


def test_a_thousand_deaths_overflow_nothing():
    """The broker is restarted for ever."""
    child, now = Supervision(Policy(stuck_after=300.0, deaths=None), 0.0), 0.0
    for _ in range(2000):
        live(child, now)
        now = child.next_start
    assert child.next_start - now == 0.0
