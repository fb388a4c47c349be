"""Estimates of time: right on average, and an interval that holds the truth about as often as it says."""

from __future__ import annotations

import random

import pytest

from trainbus.trainer_node.pace import Pace, time_left, words

TOTAL = 1_000


def steady(chance):
    return [0.5 + chance.gauss(0, 0.05) for _ in range(TOTAL)]


def heavy(chance):
    """Most steps are quick, some take ten times as long."""
    return [chance.lognormvariate(-1, 0.8) for _ in range(TOTAL)]


def evaluating(chance):
    """Every 50th step waits for an evaluation."""
    return [0.4 + chance.gauss(0, 0.02) + (8.0 if step % 50 == 49 else 0.0) for step in range(TOTAL)]


def in_spells(chance):
    """Slow spells of some 20 steps: somebody else uses the disk now and then."""
    found, slow = [], 0.0
    for _ in range(TOTAL):
        slow = 0.95 * slow + chance.gauss(0, 0.03)
        found.append(max(0.05, 0.5 + slow))
    return found


def by_length(chance):
    """Batches of texts of different lengths."""
    return [0.2 + 0.3 * chance.betavariate(1.5, 4) * 4 for _ in range(TOTAL)]


@pytest.mark.parametrize("kind", [steady, heavy, evaluating, in_spells, by_length])
def test_the_80_percent_interval_holds_the_truth_in_at_least_75_percent_of_runs(kind):
    """300 runs of 1,000 steps, each asked at a fifth, a half and four fifths; the mean error is below 10 %."""
    inside = asked = 0
    errors = []
    for seed in range(100):
        durations = kind(random.Random(seed))
        for at in (200, 500, 800):
            pace, now = Pace(), 0.0
            for step, seconds in enumerate(durations[:at], 1):
                now += seconds
                pace.add(step, now)
            left, truth = pace.left(TOTAL), sum(durations[at:])
            inside += left.low <= truth <= left.high
            errors.append(abs(left.seconds - truth) / truth)
            asked += 1
    assert inside / asked >= 0.75
    assert sum(errors) / asked < 0.1


def test_the_finish_of_a_queue_is_its_bytes_at_the_pace_of_finished_files():
    """Five files at 100 MB/h, of different sizes: 250 MB take two and a half hours, and the interval is around that."""
    hours = {100: 1.05, 50: 0.48, 200: 1.95, 20: 0.21, 80: 0.81}
    left = time_left([(size, 3600 * time) for size, time in hours.items()], 250)
    assert left.seconds == pytest.approx(2.5 * 3600, rel=0.01)
    assert 2.2 * 3600 < left.low < left.seconds < left.high < 2.8 * 3600


def test_little_is_known_at_first_and_that_is_said():
    """One part gives a time without an interval; none gives nothing; a step back begins anew."""
    assert time_left([], 10) is None
    assert (time_left([(5, 10.0)], 10).seconds, time_left([(5, 10.0)], 10).low) == (20.0, None)
    pace = Pace()
    pace.add(1, 0.0)
    assert pace.left(10) is None
    pace.add(2, 1.0)
    assert (pace.left(10).seconds, pace.left(10).low) == (8.0, None)
    pace.add(2, 5.0)
    assert (pace.left(10), pace.stats().points) == (None, 1)


def test_the_time_left_only_falls_while_the_pace_is_steady():
    """Progress is shown to people: it must not jump about."""
    pace, told = Pace(), []
    for step in range(1, 101):
        pace.add(step, step * 2.0)
        if left := pace.left(100):
            told.append(left.seconds)
    assert told == sorted(told, reverse=True)
    assert told[-1] == 0.0


def test_a_time_in_words():
    """For people."""
    assert words(time_left([(1, 60.0), (1, 66.0), (1, 54.0)], 60)).startswith("1 h 0 min (")
    assert words(time_left([(1, 1.0)], 30)) == "30 s"
