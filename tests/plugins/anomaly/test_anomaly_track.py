"""The window of a series: robust figures in constant memory."""

import math
import random
import statistics

import pytest

from trainbus.plugins.anomaly.track import WINDOW, Track


def track_of(values, stride=1):
    made = Track()
    for number, value in enumerate(values):
        made.take(value, number * stride)
    return made


def test_level_and_noise_are_those_of_the_last_values():
    """Median of the window, of the last nine, and the deviation of the differences; all sorted views stay whole."""
    noise = random.Random(1)
    values = [noise.gauss(5, 0.1) for _ in range(500)]
    track = track_of(values)
    assert track.values == values[-WINDOW:]
    assert track.ordered == sorted(values[-WINDOW:])
    assert track.near == statistics.median(values[-9:])
    assert track.median == pytest.approx(5, abs=0.1)
    assert track.noise == pytest.approx(0.1, rel=0.4)
    assert (len(track.changes), len(track.changes_ordered), track.count) == (WINDOW, WINDOW, 500)


def test_a_steep_trend_is_no_noise():
    """Of a straight line the differences are all alike, and small."""
    assert track_of([10 - n / 10 for n in range(64)]).noise == pytest.approx(0.105, rel=0.01)
    assert track_of([10 - n / 10 for n in range(64)]).spread > 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_leaves_everything_as_it_was(value):
    """A NaN in a sorted list would break every later median."""
    track, same = track_of([1.0, 2.0, 3.0]), track_of([1.0, 2.0, 3.0])
    track.take(value, 99)
    assert track == same


def test_an_outlier_moves_neither_level_nor_noise():
    """Fifteen of sixty-four do not."""
    values = [1.0 + 0.01 * (n % 5) for n in range(64)]
    values[10:60:4] = [100.0] * len(values[10:60:4])
    assert track_of(values).median < 1.05


def test_the_stride_is_the_distance_of_the_log():
    """Ten steps between two values."""
    assert track_of([1.0, 2.0], stride=10).stride == 10
