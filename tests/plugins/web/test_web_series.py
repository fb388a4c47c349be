import math
import random

import pytest

from trainbus.plugins.web.series import MAX_GAPS, Series


def filled(values, **arguments) -> Series:
    series = Series(**arguments)
    for step, value in enumerate(values):
        series.add(step, value)
    return series


@pytest.mark.parametrize("seed", range(20))
def test_no_extreme_of_any_window_is_lost(seed):
    """Whatever part is looked at, and at whatever width, its lowest and highest point are drawn."""
    chance = random.Random(seed)
    values = [chance.gauss(0, 1) for _ in range(5_000)]
    values[chance.randrange(5_000)], values[chance.randrange(5_000)] = 100.0, -100.0
    series = filled(values)
    for _ in range(10):
        first = chance.randrange(4_900)
        last = chance.randrange(first + 10, 5_000)
        part = series.window(chance.randrange(4, 400), first, last)
        assert min(part.values) == min(values[first : last + 1])
        assert max(part.values) == max(values[first : last + 1])
        assert part.steps == sorted(part.steps)
        assert [values[step] for step in part.steps] == part.values


@pytest.mark.parametrize("points", [4, 5, 7, 1000])
def test_a_window_holds_at_most_the_wanted_points(points):
    """So an answer's size follows the screen and not the run."""
    part = filled(range(20_000)).window(points)
    assert len(part.steps) <= points
    assert part.total == 20_000


def test_few_points_come_as_they_are():
    """Nothing is made up and nothing left out."""
    part = filled([3.0, 1.0, 2.0]).window(1000)
    assert (part.steps, part.values, part.gaps) == ([0, 1, 2], [3.0, 1.0, 2.0], [])


def test_memory_stays_bounded_and_extremes_stay():
    """A series is thinned when it is full; planted extremes outlive any number of thinnings."""
    series = Series(limit=1_000)
    chance = random.Random(1)
    for step in range(100_000):
        series.add(step, {777: 50.0, 31_337: -50.0, 99_998: 60.0}.get(step, chance.random()))
        assert len(series.steps) < 1_000
    part = series.window(20)
    assert {(777, 50.0), (31_337, -50.0), (99_998, 60.0)} <= set(zip(series.steps, series.values, strict=True))
    assert (min(part.values), max(part.values)) == (-50.0, 60.0)
    assert series.seen == 100_000


def test_values_that_are_not_finite_become_marked_gaps():
    """A NaN is neither drawn as a number nor forgotten; neighbours join to one gap."""
    series = filled([1.0, math.nan, math.nan, 2.0, math.inf, -math.inf, 3.0])
    part = series.window(100)
    assert part.steps == [0, 3, 6]
    assert [(gap.first, gap.last, gap.count, gap.kind) for gap in part.gaps] == [(1, 2, 2, "nan"), (4, 5, 2, "mixed")]
    assert [gap.first for gap in series.window(100, 3, 6).gaps] == [4]


def test_gaps_are_bounded():
    """Also when every second value is NaN for ever."""
    series = filled([math.nan if step % 2 else 1.0 for step in range(4 * MAX_GAPS)])
    assert len(series.gaps) == MAX_GAPS
    assert sum(gap.count for gap in series.gaps) == 2 * MAX_GAPS


def test_a_later_value_of_a_step_replaces_the_first():
    """One step has one value, also when it turns out not to be finite."""
    series = filled([1.0, 2.0, 3.0])
    series.add(1, 9.0)
    assert list(series.values) == [1.0, 9.0, 3.0]
    series.add(1, math.nan)
    assert (list(series.steps), series.gaps[0].first) == ([0, 2], 1)


def test_a_late_step_takes_its_place():
    """Steps stay in order."""
    series = Series()
    for step in (1, 5, 3):
        series.add(step, float(step))
    assert list(series.steps) == [1, 3, 5]


def test_cutting_forgets_what_a_resumed_run_walks_again():
    """Points and gaps from the step on are gone; what lies before stays."""
    series = filled([1.0, math.nan, 2.0, math.nan, math.nan, 3.0])
    series.cut(4)
    assert list(series.steps) == [0, 2]
    assert [(gap.first, gap.last) for gap in series.gaps] == [(1, 1), (3, 3)]
    series.cut(0)
    assert (list(series.steps), series.gaps) == ([], [])
