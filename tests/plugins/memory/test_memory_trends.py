"""Slopes through noisy points, and what is no rise."""

import random

import pytest

from trainbus.plugins.memory.series import LONG, RECENT, Series
from trainbus.plugins.memory.trends import rises_evenly, rising, theil_sen

MB = 10**6


def line(slope, noise=0.0, count=60, seed=0, start=100.0):
    chance = random.Random(seed)
    return [(float(x), start * MB + slope * MB * x + chance.gauss(0, noise) * MB) for x in range(count)]


def test_the_slope_is_that_of_the_line_and_its_interval_holds_it():
    """In 95 of 100 cases; here 45 of 50 must."""
    held = 0
    for seed in range(50):
        trend = theil_sen(line(2.0, noise=5.0, seed=seed))
        assert trend.slope == pytest.approx(2 * MB, rel=0.1)
        held += trend.low <= 2 * MB <= trend.high
    assert held >= 45


def test_a_few_wild_points_change_nothing():
    """A look may fall into an evaluation."""
    points = line(1.0, noise=1.0)
    for place in (10, 30, 45, 59):
        points[place] = (points[place][0], points[place][1] + 5_000 * MB)
    assert theil_sen(points).slope == pytest.approx(MB, rel=0.1)


def test_two_points_are_no_line():
    """Nor are many at one place."""
    assert theil_sen([(1.0, 1.0), (2.0, 2.0)]) is None
    assert theil_sen([(1.0, value) for value in range(5)]) is None


@pytest.mark.parametrize(
    "points",
    [
        [(x, 0.0) for x in range(50)],
        [(x, 100.0 if x > 25 else 0.0) for x in range(50)],
        [(x, 100 * (1 - 0.9**x)) for x in range(50)],
        [(x, 50 - abs(x - 25)) for x in range(50)],
        [(x, float(x % 10)) for x in range(50)],
    ],
    ids=["flat", "one jump", "warming up", "up and down", "sawtooth"],
)
def test_what_does_not_rise_all_the_way_is_no_rise(points):
    """Each fifth lies above the one before, by about the same."""
    assert not rises_evenly(points)
    assert rising(points, 1.0) is None


def test_a_rise_must_stand_out_of_the_noise_and_reach_new_heights():
    """Swings come back; what leaks does not."""
    assert rising(line(1.0, noise=1.0), 4 * MB).slope == pytest.approx(MB, rel=0.1)
    assert rising(line(1.0, noise=30.0), 4 * MB) is None
    assert rising(line(1.0, count=10), 20 * MB) is None
    higher = [(x - 100.0, 900.0 * MB) for x in range(50)]
    assert rising(line(1.0), 4 * MB, before=higher) is None


def test_a_series_stays_small_and_keeps_its_beginning():
    """Memory of the watcher is constant in the length of a run."""
    series = Series()
    for step in range(100_000):
        series.add(step, 1e9)
    assert len(series.recent) == RECENT
    assert len(series.long) <= LONG
    assert series.long[0][0] == 0
    gaps = [later[0] - earlier[0] for earlier, later in zip(series.long, series.long[1:], strict=False)]
    assert max(gaps) <= 2 * min(gaps)


def test_a_step_that_is_looked_at_twice_counts_with_its_lower_value():
    """Buffers come and go within a step."""
    series = Series()
    assert [series.add(1, 30.0), series.add(1, 10.0), series.add(1, 20.0), series.add(2, 5.0)] == [True, False, False, True]
    assert series.recent == [(1, 10.0), (2, 5.0)]


def test_a_slow_leak_shows_in_the_thinned_points():
    """Too slow for the recent ones."""
    series = Series()
    chance = random.Random(1)
    for step in range(0, 20_000, 5):
        series.add(step, 1e9 + 0.02 * MB * step + chance.gauss(0, 8) * MB)
    assert series.trend().slope == pytest.approx(0.02 * MB, rel=0.2)
